import EdgesinkCore
import Foundation

#if canImport(EdgesinkMemory)
    import EdgesinkMemory
#endif

/// `talk`: a conversation, a message of the user for each line of stdin; for each a line of JSON with its answer.
enum Talk {
    static let usage = """
        talk BUNDLE [--system TEXT] [--max-new-tokens N] [--memory FILE] [--calibration FILE] [--sinks S] [--threads N]
                [--units U] [--save FILE] [--restore FILE] < MESSAGES
        """

    private static let options = [
        "system", "max-new-tokens", "memory", "calibration", "sinks", "threads", "units", "save", "restore",
    ]

    static func run(_ words: some Sequence<String>) async throws {
        let arguments = try Arguments(words, options: options)
        let bundle = URL(filePath: try arguments.word("bundle"))
        let most = try arguments.optional("max-new-tokens", Int.self)
        let session = try await Opening.open(
            bundle, sinks: arguments.optional("sinks", Int.self), threads: arguments.optional("threads", Int.self),
            units: arguments.string("units"))
        let conversation = try Conversation(session: session, bundle: bundle, system: arguments.string("system"))
        if let file = arguments.string("restore") { try await conversation.restore(from: URL(filePath: file)) }
        let recalled = try await Self.recalled(arguments, conversation)
        while let message = readLine() {
            let answer = try await conversation.ask(message, maxNewTokens: most)
            var text = ""
            while let token = try await answer.next() { text += token.text }
            print(JSON.object([("answer", .string(text)), ("recalled", .array(await recalled(message)))]).text)
            fflush(nil)
        }
        if let file = arguments.string("save") { try await conversation.save(to: URL(filePath: file)) }
    }

    #if canImport(EdgesinkMemory)
        /// Gives the conversation its memory; says what came back for a message.
        private static func recalled(
            _ arguments: Arguments, _ conversation: Conversation
        ) async throws -> (String) async -> [JSON] {
            guard let file = arguments.string("memory") else { return { _ in [] } }
            let calibration = try arguments.string("calibration").map {
                try Calibration(reading: URL(filePath: $0), of: conversation.session.manifest)
            }
            let memory = try Memory(URL(filePath: file), calibration: calibration)
            await conversation.remember(with: memory)
            var trouble = ""
            return { message in
                let now = await memory.trouble
                if now != trouble { FileHandle.standardError.write(Data("\(now)\n".utf8)) }
                trouble = now
                guard let recall = await memory.recalled, recall.message == message else { return [] }
                let wishes = recall.wishes.map { Remembered.json($0) }
                return wishes + recall.found.map { Remembered.json($0.passage, score: $0.score, way: $0.way) }
            }
        }
    #else
        private static func recalled(
            _ arguments: Arguments, _ conversation: Conversation
        ) async throws -> (String) async -> [JSON] {
            guard arguments.string("memory") == nil else { throw Remembered.notBuilt }
            return { _ in [] }
        }
    #endif
}
