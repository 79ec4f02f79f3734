/// What a regular expression may ask of one Unicode scalar, as bits: its general category, and whether it is white
/// space (the White_Space property, which no category covers).
struct ScalarKinds: OptionSet, Sendable {
    let rawValue: UInt32

    static let space = ScalarKinds(rawValue: 1 << 30)
    static let notSpace = ScalarKinds(rawValue: 1 << 31)
    static let anyCategory = ScalarKinds(rawValue: (1 << 30) - 1)
    static let decimalDigit = ScalarKinds(.decimalNumber)
    static let number: ScalarKinds = [.init(.decimalNumber), .init(.letterNumber), .init(.otherNumber)]
    static let mark: ScalarKinds = [.init(.nonspacingMark), .init(.spacingMark), .init(.enclosingMark)]

    init(rawValue: UInt32) { self.rawValue = rawValue }

    init(_ category: Unicode.GeneralCategory) { self.init(rawValue: 1 << Self.index(category)) }

    /// The bits of one scalar. Scalars newer than `newest` count as unassigned: `tokenizers` has older tables.
    init(of scalar: UInt32) {
        self = scalar < Self.cached ? Self.table[Int(scalar)] : Self.computed(scalar)
    }

    /// The categories whose short name begins with `name`: "L", "Lu", "N" …; nil if there are none.
    init?(property name: String) {
        let fitting = Self.names.indices.filter { Self.names[$0].hasPrefix(name) }
        guard !fitting.isEmpty, (1...2).contains(name.utf8.count) else { return nil }
        self.init(rawValue: fitting.reduce(0) { $0 | 1 << UInt32($1) })
    }

    private static let cached: UInt32 = 0x3000  // alphabets; ideographs are rarer a lookup each
    private static let table: [ScalarKinds] = (0..<cached).map(computed)

    private static func computed(_ value: UInt32) -> ScalarKinds {
        guard let scalar = Unicode.Scalar(value) else { return ScalarKinds(.surrogate).union(.notSpace) }
        let properties = scalar.properties
        let category = UnicodeAge.known(scalar) ? properties.generalCategory : .unassigned
        return ScalarKinds(category).union(properties.isWhitespace ? .space : .notSpace)
    }

    private static let names = [
        "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
        "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn",
    ]

    private static func index(_ category: Unicode.GeneralCategory) -> UInt32 {
        switch category {
        case .uppercaseLetter: 0
        case .lowercaseLetter: 1
        case .titlecaseLetter: 2
        case .modifierLetter: 3
        case .otherLetter: 4
        case .nonspacingMark: 5
        case .spacingMark: 6
        case .enclosingMark: 7
        case .decimalNumber: 8
        case .letterNumber: 9
        case .otherNumber: 10
        case .connectorPunctuation: 11
        case .dashPunctuation: 12
        case .openPunctuation: 13
        case .closePunctuation: 14
        case .initialPunctuation: 15
        case .finalPunctuation: 16
        case .otherPunctuation: 17
        case .mathSymbol: 18
        case .currencySymbol: 19
        case .modifierSymbol: 20
        case .otherSymbol: 21
        case .spaceSeparator: 22
        case .lineSeparator: 23
        case .paragraphSeparator: 24
        case .control: 25
        case .format: 26
        case .surrogate: 27
        case .privateUse: 28
        case .unassigned: 29
        @unknown default: 29
        }
    }
}

/// A set of scalars: `[^\s\p{L}\r]`.
struct ScalarSet: Sendable {
    var kinds: ScalarKinds = []
    var ranges: [ClosedRange<UInt32>] = []
    var negated = false
    private var ascii: (UInt64, UInt64) = (0, 0)  // members below 128, once sealed

    init(kinds: ScalarKinds = [], ranges: [ClosedRange<UInt32>] = [], negated: Bool = false) {
        (self.kinds, self.ranges, self.negated) = (kinds, ranges, negated)
    }

    /// The set with its ASCII members looked up once and for all.
    func sealed() -> ScalarSet {
        var set = self
        for scalar in UInt32(0)..<64 where slowlyContains(scalar) { set.ascii.0 |= 1 << scalar }
        for scalar in UInt32(64)..<128 where slowlyContains(scalar) { set.ascii.1 |= 1 << (scalar - 64) }
        return set
    }

    func contains(_ scalar: UInt32) -> Bool {
        if scalar < 64 { return ascii.0 >> scalar & 1 == 1 }
        if scalar < 128 { return ascii.1 >> (scalar - 64) & 1 == 1 }
        return slowlyContains(scalar)
    }

    private func slowlyContains(_ scalar: UInt32) -> Bool {
        let inside =
            ranges.contains { $0.contains(scalar) }
            || (!kinds.isEmpty && !kinds.isDisjoint(with: ScalarKinds(of: scalar)))
        return inside != negated
    }
}
