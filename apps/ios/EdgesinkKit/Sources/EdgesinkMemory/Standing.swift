/// Standing instructions: what the user wants from now on, whatever is talked about. The twin of
/// `edgesink/memory/standing.py`.
///
/// Owns how such a sentence begins, in English. Refuses to guess: what is not recognised is remembered like anything
/// else.
enum Standing {
    /// What must follow the words of a beginning.
    private enum Behind {
        case nothing, endOfWord
        case wish  // a word, but "mind"
        case comma  // in the same line
    }

    private static let beginnings: [(words: Scalars, behind: Behind)] =
        within.map { ($0, .endOfWord) }
        + [
            ("from today on", .endOfWord), ("going forward", .endOfWord), ("in the future,", .nothing),
            ("as of now", .endOfWord), ("whenever i", .comma), ("every time i", .comma),
            ("i want you to always", .endOfWord),
        ].map { (Scalars($0), $1) }
        + ["this", "our", "the"].map { (Scalars("for the rest of \($0) talk"), .endOfWord) }
        + ["you must always", "you must never", "you should always", "you should never"].map {
            (Scalars($0), .endOfWord)
        }
        + [
            ("always", .endOfWord), ("never ", .wish), ("do not ever", .endOfWord), ("don't ever", .endOfWord),
            ("call me", .endOfWord), ("address me", .endOfWord), ("remember to always", .endOfWord),
        ].flatMap { [(Scalars($0), $1), (Scalars("please \($0)"), $1)] }

    /// What may stand anywhere in the sentence.
    private static let within: [Scalars] =
        ["from now on", "from this point on"].map { Scalars($0) }
        + ["this", "our", "the"].flatMap { whose in
            ["conversation", "chat"].map { Scalars("for the rest of \(whose) \($0)") }
        }

    private static let openings = ["and", "so", "okay", "ok", "hi", "hello", "well", "also", "oh"].map { Scalars($0) }

    /// Whether a sentence of the user is an instruction that holds from now on.
    static func isStanding(_ sentence: Scalars) -> Bool {
        let said = sentence.trimmed.map(plain)
        if said.last == "?" { return false }
        let start = begin(of: said)
        if beginnings.contains(where: { fits($0.words, $0.behind, said, start) }) { return true }
        return said.indices.contains { place in
            (place == 0 || !isOfName(said[place - 1]))
                && within.contains { fits($0, .endOfWord, said, place) }
        }
    }

    /// Where the sentence begins behind signs and words that mean nothing.
    private static func begin(of said: Scalars) -> Int {
        var rest = said.drop { !isOfName($0) }
        while let word = openings.first(where: { rest.starts(with: $0) && endsWord(rest.dropFirst($0.count)) }) {
            rest = rest.dropFirst(word.count).drop { $0 == "," || $0.isSpace }
        }
        return rest.startIndex
    }

    private static func fits(_ words: Scalars, _ behind: Behind, _ said: Scalars, _ start: Int) -> Bool {
        guard said[start...].starts(with: words) else { return false }
        let rest = said[(start + words.count)...]
        switch behind {
        case .nothing: return true
        case .endOfWord: return endsWord(rest)
        case .wish:
            let isMind = rest.starts(with: Scalars("mind")) && endsWord(rest.dropFirst(4))
            return !isMind && rest.first.map(isOfName) == true
        case .comma: return endsWord(rest) && rest.prefix { $0 != "\n" }.contains(",")
        }
    }

    private static func endsWord(_ rest: ArraySlice<Unicode.Scalar>) -> Bool { rest.first.map(isOfName) != true }

    private static func isOfName(_ scalar: Unicode.Scalar) -> Bool { scalar.isOfWord || scalar == "_" }

    /// The letter that a regular expression takes it for where case does not matter.
    private static func plain(_ scalar: Unicode.Scalar) -> Unicode.Scalar {
        switch scalar {
        case "\u{130}", "\u{131}": "i"
        case "\u{17F}": "s"
        case "\u{212A}": "k"
        default: ("A"..."Z").contains(scalar) ? Unicode.Scalar(scalar.value + 32) ?? scalar : scalar
        }
    }
}
