/// Tokens to text, one token at a time: the `decoder` of tokenizer.json as a chain of steps. The twin of
/// `edgesink/text_decoder.py`: a token costs the same time and memory wherever it stands, and the pieces joined are the
/// text of the whole list.
struct TokenDecoder: Sendable {
    private var steps: [any DecoderStep]

    /// null joins tokens with spaces.
    init(_ json: JSON) throws {
        steps = json.isNull ? [JoinedStep()] : try Self.steps(json, whole: false)
    }

    /// The text that became certain with this token.
    mutating func push(_ token: String) -> String {
        var pieces = [token]
        for index in steps.indices { pieces = pieces.flatMap { steps[index].push($0) } }
        return pieces.joined()
    }

    /// What was held back, at the end; the decoder is then used up.
    mutating func finish() -> String {
        var pieces: [String] = []
        for index in steps.indices { pieces = pieces.flatMap { steps[index].push($0) } + steps[index].finish() }
        return pieces.joined()
    }

    /// The steps of a decoder; `whole`: those before have joined the tokens to one text.
    private static func steps(_ json: JSON, whole: Bool) throws -> [any DecoderStep] {
        let type = json["type"]?.string ?? "without a type"
        switch type {
        case "Sequence": return try sequence(json["decoders"]?.array ?? [])
        case "ByteLevel": return [ByteLevelStep()]
        case "ByteFallback": return [ByteFallbackStep()]
        case "Fuse": return []
        case "Strip":
            guard let content = json["content"]?.string, content.unicodeScalars.count == 1 else {
                throw unsupported("Strip", json.shown)
            }
            let strip = StripStep(scalars(content)[0], start: json["start"]?.int ?? 0, stop: json["stop"]?.int ?? 0)
            return [whole ? strip : EachPieceStep(strip.stripped)]
        case "Replace":
            if whole, json["pattern"]?["String"]?.string?.unicodeScalars.count != 1 {
                throw unsupported("decoder of the whole text", type)
            }
            let pattern = try Pattern(tokenizerJSON: json["pattern"])
            let replace = Normalizer.replace(pattern, with: scalars(json["content"]?.string ?? ""))
            return [EachPieceStep { text(replace.normalized(scalars($0))) }]
        case "Metaspace" where !whole:
            let mark = scalars(json["replacement"]?.string ?? "▁")
            guard mark.count == 1,
                let scheme = PreTokenizer.PrependScheme(rawValue: json["prepend_scheme"]?.string ?? "always")
            else { throw unsupported("Metaspace", json.shown) }
            return [MetaspaceStep(mark: mark[0], drops: scheme != .never)]
        default: throw unsupported(whole ? "decoder of the whole text" : "decoder", type)
        }
    }

    private static func sequence(_ parts: [JSON]) throws -> [any DecoderStep] {
        var steps: [any DecoderStep] = []
        var whole = false
        for part in parts {
            steps += try self.steps(part, whole: whole)
            whole = whole || ["Fuse", "ByteLevel"].contains(part["type"]?.string)
        }
        return steps
    }
}
