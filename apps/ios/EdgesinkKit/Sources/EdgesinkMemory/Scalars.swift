import EdgesinkCore

/// A text as Python sees it: Unicode scalars, of which no two are joined to a character or taken for the same.
typealias Scalars = [Unicode.Scalar]

extension Scalars {
    init(_ text: some StringProtocol) { self.init(text.unicodeScalars) }
}

extension String {
    init(_ scalars: some Sequence<Unicode.Scalar>) { self.init(String.UnicodeScalarView(scalars)) }
}

extension Unicode.Scalar {
    /// White space as Python's `isspace` sees it.
    var isSpace: Bool { properties.isWhitespace || (0x1C...0x1F).contains(value) }

    /// A letter or a number: `\w` of Python's regular expressions, but the underscore.
    var isOfWord: Bool {
        switch properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter, .decimalNumber,
            .letterNumber, .otherNumber:
            true
        default: false
        }
    }
}

extension BidirectionalCollection<Unicode.Scalar> {
    /// Without white space around it.
    var trimmed: SubSequence {
        var rest = drop { $0.isSpace }
        while let last = rest.last, last.isSpace { rest.removeLast() }
        return rest
    }

    /// In lower case as Python has it: a sigma at the end of a word is another than within.
    var lowercased: Scalars {
        var out: Scalars = []
        for place in indices {
            let scalar = self[place]
            if scalar == "\u{3A3}" {
                let before = self[..<place].last { !$0.properties.isCaseIgnorable }
                let behind = self[index(after: place)...].first { !$0.properties.isCaseIgnorable }
                let isFinal = before?.properties.isCased == true && behind?.properties.isCased != true
                out.append(isFinal ? "\u{3C2}" : "\u{3C3}")
            } else {
                out += scalar.properties.lowercaseMapping.unicodeScalars
            }
        }
        return out
    }

    /// The words between white space, joined by one space each.
    var inOneLine: Scalars {
        Scalars(split(whereSeparator: \.isSpace).joined(separator: [" " as Unicode.Scalar]))
    }
}

extension [Int] {
    /// How many of the ascending numbers are at most `value`: Python's `bisect_right`.
    func count(upTo value: Int) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if self[middle] <= value { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
