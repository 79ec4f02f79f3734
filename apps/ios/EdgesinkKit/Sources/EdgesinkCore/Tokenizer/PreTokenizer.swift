/// Splits normalized text into the words that merges stay within, as the `pre_tokenizer` of tokenizer.json says.
enum PreTokenizer: Sendable {
    case byteLevel(addPrefixSpace: Bool, splits: Bool)
    case split(Pattern, SplitBehavior, inverted: Bool)
    case digits(individual: Bool)
    case metaspace(replacement: UInt32, PrependScheme, splits: Bool)
    case sequence([PreTokenizer])

    enum PrependScheme: String, Sendable { case always, first, never }

    /// A piece of text; `isFirst` where it begins the text that was given.
    struct Piece {
        var text: ArraySlice<UInt32>
        var isFirst: Bool
    }

    /// nil where the file names none.
    init?(_ json: JSON) throws {
        guard let type = json["type"]?.string else { return nil }
        switch type {
        case "ByteLevel":
            self = .byteLevel(
                addPrefixSpace: json["add_prefix_space"]?.bool ?? true, splits: json["use_regex"]?.bool ?? true)
        case "Split":
            guard let behavior = SplitBehavior(rawValue: json["behavior"]?.string ?? "") else {
                throw unsupported("split behavior", json["behavior"]?.string ?? "None")
            }
            self = .split(
                try Pattern(tokenizerJSON: json["pattern"]), behavior, inverted: json["invert"]?.bool ?? false)
        case "Digits": self = .digits(individual: json["individual_digits"]?.bool ?? false)
        case "Metaspace":
            let replacement = scalars(json["replacement"]?.string ?? "▁")
            guard replacement.count == 1,
                let scheme = PrependScheme(rawValue: json["prepend_scheme"]?.string ?? "always")
            else { throw unsupported("Metaspace", json.shown) }
            self = .metaspace(replacement: replacement[0], scheme, splits: json["split"]?.bool ?? true)
        case "Sequence": self = .sequence(try (json["pretokenizers"]?.array ?? []).compactMap(PreTokenizer.init))
        default: throw unsupported("pre_tokenizer", type)
        }
    }

    func split(_ piece: Piece) -> [Piece] {
        switch self {
        case .byteLevel(let addsSpace, let splits):
            var piece = piece
            if addsSpace, piece.text.first != 0x20 { piece.text = [0x20] + piece.text }
            let words = splits ? SplitBehavior.isolated.cut(piece, Self.gpt2.matches(in: piece.text)) : [piece]
            return words.map { Piece(text: ByteAlphabet.spelled($0.text)[...], isFirst: $0.isFirst) }
        case .split(let pattern, let behavior, let inverted):
            return behavior.cut(piece, pattern.matches(in: piece.text), inverted: inverted)
        case .digits(let individual):
            let pattern = individual ? Self.digit : Self.digits
            return SplitBehavior.isolated.cut(piece, pattern.matches(in: piece.text))
        case .metaspace(let replacement, let scheme, let splits):
            return Self.metaspace(piece, replacement, scheme, splits)
        case .sequence(let parts):
            return parts.reduce([piece]) { pieces, part in pieces.flatMap(part.split) }
        }
    }

    private static func metaspace(
        _ piece: Piece, _ replacement: UInt32, _ scheme: PrependScheme, _ splits: Bool
    ) -> [Piece] {
        var piece = piece
        piece.text = piece.text.map { $0 == 0x20 ? replacement : $0 }[...]
        let prepends = scheme == .always || (scheme == .first && piece.isFirst)
        if prepends, piece.text.first != replacement { piece.text = [replacement] + piece.text }
        guard splits else { return [piece] }
        let marks = piece.text.indices.filter { piece.text[$0] == replacement }.map { $0..<($0 + 1) }
        return SplitBehavior.mergedWithNext.cut(piece, marks)
    }

    /// What ByteLevel splits by itself (GPT-2's); Digits, in the library's terms.
    private static let gpt2 = known(
        #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#)
    private static let digit = known(#"\p{N}"#)
    private static let digits = known(#"\p{N}+"#)

    private static func known(_ source: String) -> Pattern {
        guard let pattern = try? Pattern(source) else { preconditionFailure("our own pattern: \(source)") }
        return pattern
    }
}

/// What becomes of the separators that a split finds; names as in tokenizer.json.
enum SplitBehavior: String, Sendable {
    case removed = "Removed"
    case isolated = "Isolated"
    case mergedWithPrevious = "MergedWithPrevious"
    case mergedWithNext = "MergedWithNext"
    case contiguous = "Contiguous"

    func cut(_ piece: PreTokenizer.Piece, _ matches: [Range<Int>], inverted: Bool = false) -> [PreTokenizer.Piece] {
        joined(Self.alternating(piece.text.indices, matches, inverted)).map { range in
            PreTokenizer.Piece(
                text: piece.text[range], isFirst: piece.isFirst && range.lowerBound == piece.text.startIndex)
        }
    }

    private typealias Part = (range: Range<Int>, isSeparator: Bool)

    /// The whole as matches and what lies between them, empty parts left out.
    private static func alternating(_ whole: Range<Int>, _ matches: [Range<Int>], _ inverted: Bool) -> [Part] {
        var parts: [Part] = []
        var at = whole.lowerBound
        for match in matches {
            if at < match.lowerBound { parts.append((at..<match.lowerBound, inverted)) }
            parts.append((match, !inverted))
            at = match.upperBound
        }
        if at < whole.upperBound { parts.append((at..<whole.upperBound, inverted)) }
        return parts
    }

    private func joined(_ parts: [Part]) -> [Range<Int>] {
        var out: [Part] = []
        for part in parts {
            let previous = out.last?.isSeparator ?? false
            let joins =
                switch self {
                case .removed, .isolated: false
                case .contiguous: !out.isEmpty && part.isSeparator == previous
                case .mergedWithPrevious: !out.isEmpty && part.isSeparator && !previous
                case .mergedWithNext: !out.isEmpty && !part.isSeparator && previous
                }
            if joins, let last = out.popLast() {
                out.append((last.range.lowerBound..<part.range.upperBound, part.isSeparator))
            } else {
                out.append(part)
            }
        }
        return out.filter { self != .removed || !$0.isSeparator }.map(\.range)
    }
}
