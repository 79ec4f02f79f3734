import EdgesinkCore
import Foundation

#if canImport(EdgesinkMemory)
    import EdgesinkMemory
#endif

/// `talk`: a conversation, a message of the user for each line of stdin; for each a line of JSON with its answer.
enum Talk {
    static let usage = """
        talk BUNDLE [--system TEXT] [--max-new-tokens N] [--memory FILE] [--recall quoted|pinned] [--calibration FILE]
                [--no-judge] [--sinks S] [--threads N] [--units U] [--save FILE] [--restore FILE] < MESSAGES
        """

    private static let options = [
        "system", "max-new-tokens", "memory", "recall", "calibration", "sinks", "threads", "units", "save", "restore",
    ]

    static func run(_ words: some Sequence<String>) async throws {
        let arguments = try Arguments(words, options: options, switches: ["no-judge"])
        let bundle = URL(filePath: try arguments.word("bundle"))
        let most = try arguments.optional("max-new-tokens", Int.self)
        let session = try await Opening.open(
            bundle, sinks: arguments.optional("sinks", Int.self), threads: arguments.optional("threads", Int.self),
            units: arguments.string("units"))
        let conversation = try Conversation(session: session, bundle: bundle, system: arguments.string("system"))
        if let file = arguments.string("restore") { try await conversation.restore(from: URL(filePath: file)) }
        let recalled = try await Self.recalled(arguments, bundle, conversation)
        while let message = readLine() {
            let answer = try await conversation.ask(message, maxNewTokens: most)
            var text = ""
            while let token = try await answer.next() { text += token.text }
            print(JSON.object([("answer", .string(text))] + (await recalled(message))).text)
            fflush(nil)
        }
        if let file = arguments.string("save") { try await conversation.save(to: URL(filePath: file)) }
    }

    private typealias Fields = [(key: String, value: JSON)]

    private static func fields(_ recalled: [JSON] = [], way: String? = nil) -> Fields {
        [("recalled", .array(recalled)), ("way", way.map(JSON.string) ?? .null)]
    }

    #if canImport(EdgesinkMemory)
        /// Gives the conversation its memory; says what came back for a message, and how. Without --calibration meanings are
        /// compared as the bundle says, if it does.
        private static func recalled(
            _ arguments: Arguments, _ bundle: URL, _ conversation: Conversation
        ) async throws -> (String) async -> Fields {
            let spelled = arguments.string("recall") ?? RecallWay.quoted.rawValue
            guard let way = RecallWay(rawValue: spelled) else {
                throw UsageError(problem: "--recall \(spelled) is neither quoted nor pinned")
            }
            guard let file = arguments.string("memory") else {
                guard way == .quoted else { throw UsageError(problem: "--recall pinned without --memory FILE") }
                return { _ in fields() }
            }
            let manifest = conversation.session.manifest
            let calibration =
                try arguments.string("calibration").map { try Calibration(reading: URL(filePath: $0), of: manifest) }
                ?? Calibration.ofBundle(bundle, manifest)
            let memory = try Memory(
                URL(filePath: file), way: way, calibration: calibration, judge: !arguments.has("no-judge"))
            await conversation.remember(with: memory)
            var trouble = ""
            return { message in
                let now = await memory.trouble
                if now != trouble { FileHandle.standardError.write(Data("\(now)\n".utf8)) }
                trouble = now
                guard let recall = await memory.recalled, recall.message == message else { return fields() }
                let wishes = recall.wishes.map { Remembered.json($0) }
                let found = recall.found.map { Remembered.json($0.passage, score: $0.score, way: $0.way) }
                return fields(wishes + found, way: recall.way.rawValue)
            }
        }
    #else
        private static func recalled(
            _ arguments: Arguments, _ bundle: URL, _ conversation: Conversation
        ) async throws -> (String) async -> Fields {
            guard arguments.string("memory") == nil, arguments.string("recall") == nil else {
                throw Remembered.notBuilt
            }
            return { _ in fields() }
        }
    #endif
}
