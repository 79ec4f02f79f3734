import EdgesinkCore
import Foundation

/// `generate`: continue a prompt, endlessly if asked to. Text goes to stdout as it comes, numbers to stderr.
enum Generate {
    static let usage = """
        generate BUNDLE (--prompt TEXT | --ids 1,2,3 | --ids-file FILE.json) [--json] [--max-new-tokens N]
                [--temperature X --top-k N --top-p X --min-p X --repetition-penalty X --seed N] [--stop TEXT]
                [--ignore-end] [--sinks S] [--threads N] [--units U] [--save FILE] [--restore FILE]
        """

    private static let options = [
        "prompt", "ids", "ids-file", "max-new-tokens", "temperature", "top-k", "top-p", "min-p", "repetition-penalty",
        "seed", "stop", "sinks", "threads", "units", "save", "restore",
    ]

    static func run(_ words: some Sequence<String>) async throws {
        let arguments = try Arguments(words, options: options, switches: ["json", "ignore-end"])
        let bundle = URL(filePath: try arguments.word("bundle"))
        let tokenizer = try Tokenizer(bundle: bundle)
        let session = try await Opening.open(
            bundle, sinks: arguments.optional("sinks", Int.self), threads: arguments.optional("threads", Int.self),
            units: arguments.string("units"))
        if let file = arguments.string("restore") { try await session.restore(from: URL(filePath: file)) }
        let ids = try prompt(arguments, tokenizer, isFresh: await session.position == 0)
        let tokens = try await session.generate(
            ids, tokenizer: tokenizer, sampling: sampling(arguments, session.manifest.sampling),
            maxNewTokens: arguments.optional("max-new-tokens", Int.self),
            stop: arguments.string("stop").map { [$0] } ?? [],
            ignoresEnd: arguments.has("ignore-end"))
        try await show(tokens, session, asJSON: arguments.has("json"))
        if let file = arguments.string("save") { try await session.save(to: URL(filePath: file)) }
    }

    private static func prompt(_ arguments: Arguments, _ tokenizer: Tokenizer, isFresh: Bool) throws -> [Int] {
        if let text = arguments.string("prompt") { return tokenizer.encode(text, special: isFresh) }
        if let list = arguments.string("ids") { return try ids(list.split(separator: ",").map { Int($0) }) }
        guard let file = arguments.string("ids-file") else { throw UsageError(problem: "--prompt or --ids expected") }
        return try ids(JSON.parse(Data(contentsOf: URL(filePath: file))).array?.map(\.int) ?? [nil])
    }

    private static func ids(_ list: [Int?]) throws -> [Int] {
        let ids = list.compactMap { $0 }
        guard ids.count == list.count else { throw UsageError(problem: "ids are whole numbers") }
        return ids
    }

    /// What the options say, else the model's own; greedy where neither says anything.
    private static func sampling(_ arguments: Arguments, _ own: SamplingDefaults?) throws -> SamplingSpec {
        var spec = SamplingSpec(own)
        spec.temperature = try arguments.value("temperature", spec.temperature)
        spec.topK = try arguments.value("top-k", spec.topK)
        spec.topP = try arguments.value("top-p", spec.topP)
        spec.minP = try arguments.value("min-p", spec.minP)
        spec.repetitionPenalty = try arguments.value("repetition-penalty", spec.repetitionPenalty)
        spec.seed = try arguments.optional("seed", UInt64.self)
        return spec
    }

    private static func show(
        _ tokens: AsyncThrowingStream<Token, any Error>, _ session: StreamSession, asJSON: Bool
    ) async throws {
        var meter = TokenMeter()
        var ids: [Int] = []
        var text = ""
        for try await token in tokens {
            meter.count()
            ids.append(token.id)
            if asJSON {
                text += token.text
            } else {
                FileHandle.standardOutput.write(Data(token.text.utf8))
            }
        }
        let status = await session.status
        let numbers: [(key: String, value: JSON)] = [
            ("position", .int(status.position)), ("forgotten", .int(status.forgotten)),
            ("state_bytes", .int(status.stateBytes)),
            ("first_token_seconds", .double(meter.firstTokenSeconds)),
            ("tokens_per_second", .double(meter.tokensPerSecond)),
            ("resident_bytes", .int(MemoryGauge.footprintBytes() ?? 0)),
        ]
        if asJSON {
            print(JSON.object([("ids", .ints(ids)), ("text", .string(text))] + numbers).text)
        } else {
            FileHandle.standardError.write(Data(("\n" + JSON.object(numbers).text + "\n").utf8))
        }
    }
}
