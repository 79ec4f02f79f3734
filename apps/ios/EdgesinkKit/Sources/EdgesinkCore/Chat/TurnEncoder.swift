/// Turns to ids: a control token only where a turn has one, whatever a message says. The twin of
/// `edgesink/turn_encoder.py`.
///
/// Owns a twin of the tokenizer whose control tokens are spelled in a way that nobody can write.
public struct TurnEncoder: Sendable {
    private let twin: Tokenizer
    private let controls: Set<Int>
    private let names: [Int: String]
    private let spelled: [Int: String]
    private let gap: String  // a token of no id: what stands around it does not join
    private var forbidden: Set<Int> = []  // of a message

    private static let neighbours = ["a", "\n", "."]  // stand for an answer's end

    /// `controls`: ids of the control tokens besides those that are marked special.
    public init(_ tokenizer: Tokenizer, controls: [Int]) {
        let secret = String(UInt64.random(in: .min ... .max), radix: 16)
        self.controls = Set(controls).union(tokenizer.specialIds)
        names = Dictionary(self.controls.map { ($0, tokenizer.token($0) ?? "") }, uniquingKeysWith: { $1 })
        spelled = names.mapValues { _ in "" }.reduce(into: [:]) { spelled, name in
            spelled[name.key] = "\u{E2F0}\(secret)\(String(name.key, radix: 16))\u{E2F1}"
        }
        gap = "\u{E2F0}\(secret)\u{E2F1}"
        twin = tokenizer.spelling(spelled, gap: gap)
        // What a tokenizer makes of this stands for any character that it does not know.
        forbidden = self.controls.subtracting(twin.encode("\u{F1234}"))
    }

    /// Ids of a turn; `goesOn`: it stands behind an answer, not at the beginning of the text.
    public func encode(_ parts: [TurnPart], goesOn: Bool = false) throws -> [Int] {
        if let ids = try whole(parts, goesOn) ?? whole(parts.map(broken), goesOn) { return ids }
        throw EdgesinkError(
            .badOption, "a control token in a message", expected: "text that this tokenizer does not take for one")
    }

    /// nil if a message became a control token.
    private func whole(_ parts: [TurnPart], _ goesOn: Bool) throws -> [Int]? {
        let text = parts.map { part in
            switch part {
            case .token(let id): spelled[id] ?? ""
            case .text(let text): text
            }
        }.joined()
        var isText = false
        if case .text? = parts.first { isText = true }
        let made = goesOn && isText ? behind(text) : twin.encode(text)
        if made.contains(where: forbidden.contains) { return nil }
        let found = made.compactMap(Tokenizer.respelled)
        let wanted = parts.compactMap { part -> Int? in
            if case .token(let id) = part { id } else { nil }
        }
        guard found == wanted else {
            let shown = wanted.map { names[$0] ?? "" }.joined(separator: " ")
            throw EdgesinkError(
                .badBundle, "a tokenizer that does not find \(shown) in a turn", expected: "one that does",
                remedy: "export it again")
        }
        return made.compactMap { $0 >= 0 ? $0 : Tokenizer.respelled($0) }
    }

    /// Ids of text that goes on behind other text, as the whole would have them.
    private func behind(_ text: String) -> [Int] {
        for neighbour in Self.neighbours {
            let (before, whole) = (twin.encode(neighbour), twin.encode(neighbour + text))
            if whole.starts(with: before) { return Array(whole.dropFirst(before.count)) }
        }
        return twin.encode(gap + text)
    }

    /// The text with a gap in every spelling of a control token.
    private func broken(_ part: TurnPart) -> TurnPart {
        guard case .text(var text) = part else { return part }
        for name in names.values where name.unicodeScalars.count > 1 {
            var rest = scalars(text)[...]
            let spelling = scalars(name)
            var out: [UInt32] = []
            while let found = rest.firstRange(of: spelling) {
                out += rest[..<found.lowerBound] + [spelling[0]] + scalars(gap) + spelling.dropFirst()
                rest = rest[found.upperBound...]
            }
            text = String(String.UnicodeScalarView((out + rest).compactMap(Unicode.Scalar.init)))
        }
        return .text(text)
    }
}
