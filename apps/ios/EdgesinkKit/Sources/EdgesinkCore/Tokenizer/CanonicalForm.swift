/// Unicode normalization form C (UAX 15), with the tables of the `tokenizers` library: decompose, put marks in order,
/// compose.
struct CanonicalForm: Sendable {
    static let shared = CanonicalForm(canonicalTable)

    private var decompositions: [UInt32: [UInt32]] = [:]
    private var composites: [UInt64: UInt32] = [:]

    private init(_ table: String) {
        var composing: [(whole: UInt32, parts: [UInt32])] = []
        for entry in table.split(separator: ",") {
            guard let sign = entry.firstIndex(where: { $0 == "=" || $0 == ":" }),
                let whole = UInt32(entry[..<sign], radix: 16)
            else { continue }
            let parts = entry[entry.index(after: sign)...].split(separator: " ").compactMap { UInt32($0, radix: 16) }
            decompositions[whole] = parts
            if entry[sign] == "=", parts.count > 1 { composing.append((whole, parts)) }
        }
        // A composite is one step from the composite of all but its last part: shorter ones first.
        for (whole, parts) in composing.sorted(by: { $0.parts.count < $1.parts.count }) {
            var first = parts[0]
            for part in parts.dropFirst().dropLast() { first = composites[Self.key(first, part)] ?? first }
            composites[Self.key(first, parts[parts.count - 1])] = whole
        }
    }

    private static func key(_ first: UInt32, _ second: UInt32) -> UInt64 { UInt64(first) << 32 | UInt64(second) }

    func composed(_ text: [UInt32]) -> [UInt32] {
        if text.allSatisfy({ $0 < 0x300 }) { return text }  // nothing to compose
        return recomposed(ordered(text.flatMap(decomposed)))
    }

    // MARK: - Steps

    private func decomposed(_ scalar: UInt32) -> [UInt32] {
        if scalar < 0xC0 { return [scalar] }
        if let syllable = Hangul.decomposed(scalar) { return syllable }
        return decompositions[scalar] ?? [scalar]
    }

    /// Marks after each starter sorted by combining class, those of one class as they come.
    private func ordered(_ text: [UInt32]) -> [UInt32] {
        var out: [UInt32] = []
        var marks: [(scalar: UInt32, rank: UInt8)] = []
        func flush() {
            out += marks.enumerated().sorted { ($0.element.rank, $0.offset) < ($1.element.rank, $1.offset) }
                .map(\.element.scalar)
            marks = []
        }
        for scalar in text {
            let rank = Self.combiningClass(scalar)
            if rank == 0 {
                flush()
                out.append(scalar)
            } else {
                marks.append((scalar, rank))
            }
        }
        flush()
        return out
    }

    private func recomposed(_ text: [UInt32]) -> [UInt32] {
        var out: [UInt32] = []
        var starter: Int?  // place in `out`
        var lastRank: UInt8 = 0  // of what stands after the starter
        for scalar in text {
            let rank = Self.combiningClass(scalar)
            if let place = starter, place == out.count - 1 || (lastRank != 0 && lastRank < rank),
                let whole = Hangul.composed(out[place], scalar) ?? composites[Self.key(out[place], scalar)]
            {
                out[place] = whole
                continue
            }
            if rank == 0 { starter = out.count }
            lastRank = rank
            out.append(scalar)
        }
        return out
    }

    private static func combiningClass(_ value: UInt32) -> UInt8 {
        guard value >= 0x300, let scalar = Unicode.Scalar(value), UnicodeAge.knownInNormalization(scalar) else {
            return 0
        }
        return scalar.properties.canonicalCombiningClass.rawValue
    }
}

/// Hangul syllables by arithmetic (Unicode Standard, section 3.12).
private enum Hangul {
    private static let (syllables, leads, vowels, tails): (UInt32, UInt32, UInt32, UInt32) = (
        0xAC00, 0x1100, 0x1161, 0x11A7
    )
    private static let (leadCount, vowelCount, tailCount): (UInt32, UInt32, UInt32) = (19, 21, 28)
    private static let syllableCount = leadCount * vowelCount * tailCount

    static func decomposed(_ scalar: UInt32) -> [UInt32]? {
        guard (syllables..<(syllables + syllableCount)).contains(scalar) else { return nil }
        let index = scalar - syllables
        let pair = [leads + index / (vowelCount * tailCount), vowels + index / tailCount % vowelCount]
        return index % tailCount == 0 ? pair : pair + [tails + index % tailCount]
    }

    static func composed(_ first: UInt32, _ second: UInt32) -> UInt32? {
        if (leads..<(leads + leadCount)).contains(first), (vowels..<(vowels + vowelCount)).contains(second) {
            return syllables + ((first - leads) * vowelCount + second - vowels) * tailCount
        }
        let isPair = (syllables..<(syllables + syllableCount)).contains(first) && (first - syllables) % tailCount == 0
        return isPair && ((tails + 1)..<(tails + tailCount)).contains(second) ? first + second - tails : nil
    }
}
