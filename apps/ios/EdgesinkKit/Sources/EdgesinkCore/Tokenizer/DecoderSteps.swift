/// Rewrites a list of pieces, given one by one. The steps of a `TokenDecoder`.
protocol DecoderStep: Sendable {
    /// The pieces that became certain with this one.
    mutating func push(_ piece: String) -> [String]

    /// What was held back, at the end.
    mutating func finish() -> [String]
}

extension DecoderStep {
    mutating func finish() -> [String] { [] }
}

/// Looks at one piece at a time.
struct EachPieceStep: DecoderStep {
    private let rewrite: @Sendable (String) -> String

    init(_ rewrite: @escaping @Sendable (String) -> String) { self.rewrite = rewrite }

    func push(_ piece: String) -> [String] { [rewrite(piece)] }
}

/// Where there is no decoder: a space between tokens.
struct JoinedStep: DecoderStep {
    private var isFirst = true

    mutating func push(_ piece: String) -> [String] {
        defer { isFirst = false }
        return [isFirst ? piece : " " + piece]
    }
}

/// SentencePiece's mark for a space, which the first token may begin with for nothing.
struct MetaspaceStep: DecoderStep {
    let mark: UInt32
    var drops: Bool  // the marks of this piece

    mutating func push(_ piece: String) -> [String] {
        defer { drops = false }
        return [text(scalars(piece).flatMap { $0 != mark ? [$0] : drops ? [] : [0x20] })]
    }
}

/// GPT-2's alphabet: a token's characters are bytes; those of a character may be spread over tokens.
struct ByteLevelStep: DecoderStep {
    private var open: [UInt8] = []  // the beginning of a character

    mutating func push(_ piece: String) -> [String] {
        let bytes = open + ByteAlphabet.bytes(piece)
        let begun = (1...3).last { $0 <= bytes.count && beginsCharacter(bytes.suffix($0)) } ?? 0
        open = bytes.suffix(begun)
        return [String(decoding: bytes.dropLast(begun), as: UTF8.self)]
    }

    mutating func finish() -> [String] {
        defer { open = [] }
        return [String(decoding: open, as: UTF8.self)]
    }
}

/// SentencePiece's: a token `<0xNN>` is a byte, any other is text.
struct ByteFallbackStep: DecoderStep {
    private var open: [UInt8] = []  // the beginning of a character

    mutating func push(_ piece: String) -> [String] {
        guard let byte = Self.byte(piece) else { return finish() + [piece] }
        open.append(byte)
        return characters(isFinal: false)
    }

    mutating func finish() -> [String] { characters(isFinal: true) }

    /// What is complete; of what is broken, a replacement character for each byte.
    private mutating func characters(isFinal: Bool) -> [String] {
        var out: [String] = []
        while !open.isEmpty {
            if let text = String(validating: open, as: UTF8.self) {
                out.append(text)
                open = []
            } else if !isFinal, beginsCharacter(open[...]) {
                break
            } else {
                let broken = open.indices.last { beginsCharacter(open[...$0]) }.map { $0 + 1 } ?? 1
                out.append(String(repeating: "\u{FFFD}", count: broken))
                open.removeFirst(broken)
            }
        }
        return out
    }

    private static func byte(_ piece: String) -> UInt8? {
        let spelled = Array(piece.utf8)
        guard spelled.count == 6, piece.hasPrefix("<0x"), spelled[5] == UInt8(ascii: ">") else { return nil }
        let digits = String(decoding: spelled[3..<5], as: UTF8.self)
        return digits.allSatisfy(\.isHexDigit) ? UInt8(digits, radix: 16) : nil
    }
}

/// Takes up to `start` characters from the front of the whole text, and up to `stop` from its end.
struct StripStep: DecoderStep {
    private let content: UInt32
    private var start: Int
    private let stop: Int
    private var held: [UInt32] = []

    init(_ content: UInt32, start: Int, stop: Int) {
        (self.content, self.start, self.stop) = (content, start, stop)
    }

    mutating func push(_ piece: String) -> [String] {
        let given = scalars(piece)
        let cut = count(given, upTo: start)
        start = cut == given.count ? start - cut : 0
        let whole = held + given.dropFirst(cut)
        let kept = whole.count - count(whole.reversed(), upTo: stop)
        held = Array(whole[kept...])
        return [text(whole[..<kept])]
    }

    /// A piece that is stripped by itself.
    @Sendable func stripped(_ piece: String) -> String {
        let given = scalars(piece)
        let rest = given.dropFirst(count(given, upTo: start))
        return text(rest.dropLast(count(rest.reversed(), upTo: stop)))
    }

    private func count(_ scalars: [UInt32], upTo most: Int) -> Int {
        scalars.prefix(max(0, most)).prefix { $0 == content }.count
    }
}

/// Whether the bytes are the beginning of a character in UTF-8, and not yet all of it.
private func beginsCharacter(_ bytes: ArraySlice<UInt8>) -> Bool {
    guard let lead = bytes.first else { return false }
    let (length, second): (Int, ClosedRange<UInt8>)
    switch lead {
    case 0xC2...0xDF: (length, second) = (2, 0x80...0xBF)
    case 0xE0: (length, second) = (3, 0xA0...0xBF)
    case 0xED: (length, second) = (3, 0x80...0x9F)
    case 0xE1...0xEF: (length, second) = (3, 0x80...0xBF)
    case 0xF0: (length, second) = (4, 0x90...0xBF)
    case 0xF4: (length, second) = (4, 0x80...0x8F)
    case 0xF1...0xF3: (length, second) = (4, 0x80...0xBF)
    default: return false
    }
    let rest = bytes.dropFirst()
    return bytes.count < length && (rest.first.map(second.contains) ?? true)
        && rest.dropFirst().allSatisfy { (0x80...0xBF).contains($0) }
}
