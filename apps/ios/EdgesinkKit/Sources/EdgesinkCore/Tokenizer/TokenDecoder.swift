/// Joins tokens to text, as the `decoder` of tokenizer.json says. Each part rewrites the list of pieces.
enum TokenDecoder: Sendable {
    case byteLevel
    case byteFallback
    case fuse
    case strip(UInt32, start: Int, stop: Int)
    case replace(Pattern, with: [UInt32])
    case metaspace(replacement: UInt32, PreTokenizer.PrependScheme)
    case sequence([TokenDecoder])

    /// nil where the file names none.
    init?(_ json: JSON) throws {
        guard let type = json["type"]?.string else { return nil }
        switch type {
        case "ByteLevel": self = .byteLevel
        case "ByteFallback": self = .byteFallback
        case "Fuse": self = .fuse
        case "Strip":
            guard let content = json["content"]?.string, content.unicodeScalars.count == 1 else {
                throw unsupported("Strip", json.shown)
            }
            self = .strip(scalars(content)[0], start: json["start"]?.int ?? 0, stop: json["stop"]?.int ?? 0)
        case "Replace":
            self = .replace(try Pattern(tokenizerJSON: json["pattern"]), with: scalars(json["content"]?.string ?? ""))
        case "Metaspace":
            let replacement = scalars(json["replacement"]?.string ?? "▁")
            guard replacement.count == 1,
                let scheme = PreTokenizer.PrependScheme(rawValue: json["prepend_scheme"]?.string ?? "always")
            else { throw unsupported("Metaspace", json.shown) }
            self = .metaspace(replacement: replacement[0], scheme)
        case "Sequence": self = .sequence(try (json["decoders"]?.array ?? []).compactMap(TokenDecoder.init))
        default: throw unsupported("decoder", type)
        }
    }

    func decoded(_ pieces: [String]) -> [String] {
        switch self {
        case .byteLevel: [String(decoding: pieces.flatMap(ByteAlphabet.bytes), as: UTF8.self)]
        case .byteFallback: Self.joiningBytes(pieces)
        case .fuse: [pieces.joined()]
        case .strip(let content, let start, let stop): pieces.map { Self.stripped($0, content, start, stop) }
        case .replace(let pattern, let content):
            pieces.map { text(Normalizer.replace(pattern, with: content).normalized(scalars($0))) }
        case .metaspace(let replacement, let scheme):
            pieces.enumerated().map { index, piece in
                let drops = index == 0 && scheme != .never
                return text(scalars(piece).flatMap { $0 != replacement ? [$0] : drops ? [] : [0x20] })
            }
        case .sequence(let parts): parts.reduce(pieces) { $1.decoded($0) }
        }
    }

    /// Runs of `<0xNN>` as the characters they spell; each byte a replacement character where they spell none.
    private static func joiningBytes(_ pieces: [String]) -> [String] {
        var out: [String] = []
        var bytes: [UInt8] = []
        func flush() {
            if bytes.isEmpty { return }
            if let text = String(validating: bytes, as: UTF8.self) {
                out.append(text)
            } else {
                out += bytes.map { _ in "\u{FFFD}" }
            }
            bytes = []
        }
        for piece in pieces {
            if let byte = byte(piece) {
                bytes.append(byte)
            } else {
                flush()
                out.append(piece)
            }
        }
        flush()
        return out
    }

    private static func byte(_ piece: String) -> UInt8? {
        let spelled = Array(piece.utf8)
        guard spelled.count == 6, piece.hasPrefix("<0x"), spelled[5] == UInt8(ascii: ">") else { return nil }
        return UInt8(String(decoding: spelled[3..<5], as: UTF8.self), radix: 16)
    }

    private static func stripped(_ piece: String, _ content: UInt32, _ start: Int, _ stop: Int) -> String {
        let all = scalars(piece)
        let front = all.prefix(start).prefix { $0 == content }.count
        let back = all.dropFirst(front).suffix(stop).reversed().prefix { $0 == content }.count
        return text(all[front..<(all.count - back)])
    }
}
