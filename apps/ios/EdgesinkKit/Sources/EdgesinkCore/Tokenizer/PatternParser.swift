/// Compiles the source of a regular expression to the steps of a `Pattern`.
///
/// Known: literals, `.`, classes `[^a-z\s\p{L}]`, `\s \S \d \D \p{..} \P{..} \r \n \t \uXXXX \x{..}`, groups `( )`
/// `(?: )` `(?i: )`, look-ahead `(?= )` `(?! )`, `|`, quantifiers `? * + {m,n}` greedy, lazy or (on one scalar)
/// possessive, `^ $` as start and end of text.
struct PatternParser {
    private indirect enum Node {
        case set(ScalarSet)
        case all([Node])
        case any([Node])
        case times(Node, atLeast: Int, atMost: Int, Pattern.Greed)
        case look(Node, negative: Bool)
        case start
        case end
    }

    private let source: String
    private let text: [Unicode.Scalar]
    private var at = 0
    private var foldsCase = false
    private var steps: [Pattern.Step] = []

    init(_ source: String) {
        self.source = source
        text = Array(source.unicodeScalars)
    }

    mutating func compiled() throws -> [Pattern.Step] {
        let node = try choice()
        guard at == text.count else { throw refusal("an unmatched ')'") }
        emit(node)
        steps.append(.accept)
        return steps
    }

    private func refusal(_ what: String) -> EdgesinkError {
        EdgesinkError(
            .badBundle, "tokenizer.json splits text with a regular expression that has \(what): \(source)",
            expected: "one of the supported families", remedy: "see docs/ios.md")
    }

    // MARK: - Parsing

    private mutating func take(_ literal: String) -> Bool {
        let wanted = Array(literal.unicodeScalars)
        guard at + wanted.count <= text.count, text[at..<(at + wanted.count)].elementsEqual(wanted) else {
            return false
        }
        at += wanted.count
        return true
    }

    private mutating func choice() throws -> Node {
        var options = [try sequence()]
        while take("|") { options.append(try sequence()) }
        return options.count == 1 ? options[0] : .any(options)
    }

    private mutating func sequence() throws -> Node {
        var items: [Node] = []
        while at < text.count, text[at] != "|", text[at] != ")" {
            items.append(try quantified(try atom()))
        }
        return items.count == 1 ? items[0] : .all(items)
    }

    private mutating func quantified(_ node: Node) throws -> Node {
        let bounds: (Int, Int)
        if take("?") {
            bounds = (0, 1)
        } else if take("*") {
            bounds = (0, .max)
        } else if take("+") {
            bounds = (1, .max)
        } else if at < text.count, text[at] == "{" {
            bounds = try counts()
        } else {
            return node
        }
        var greed = Pattern.Greed.greedy
        if take("?") { greed = .lazy } else if take("+") { greed = .possessive }
        if case .set = node { return .times(node, atLeast: bounds.0, atMost: bounds.1, greed) }
        guard greed != .possessive else { throw refusal("a possessive group") }
        guard !canBeEmpty(node) else { throw refusal("a repeated group that can be empty") }
        return .times(node, atLeast: bounds.0, atMost: bounds.1, greed)
    }

    private mutating func counts() throws -> (Int, Int) {
        guard let close = text[at...].firstIndex(of: "}") else { throw refusal("an open '{'") }
        let inside = text[(at + 1)..<close].split(separator: ",", omittingEmptySubsequences: false)
            .map { part in String(String.UnicodeScalarView(part)) }
        at = close + 1
        guard (1...2).contains(inside.count), let least = Int(inside[0]) else { throw refusal("a strange quantifier") }
        if inside.count == 1 { return (least, least) }
        if inside[1].isEmpty { return (least, .max) }
        guard let most = Int(inside[1]), most >= least else { throw refusal("a strange quantifier") }
        return (least, most)
    }

    private mutating func atom() throws -> Node {
        if take("(") { return try group() }
        if take("[") { return .set(try set().sealed()) }
        if take("^") { return .start }
        if take("$") { return .end }
        if take(".") { return .set(ScalarSet(ranges: [10...10], negated: true).sealed()) }
        if take("\\") { return .set(try escape().sealed()) }
        let scalar = text[at]
        guard !"*+?{}".unicodeScalars.contains(scalar) else { throw refusal("a misplaced '\(scalar)'") }
        at += 1
        return .set(literal(scalar).sealed())
    }

    private mutating func group() throws -> Node {
        let outer = foldsCase
        defer { foldsCase = outer }
        if take("?=") { return .look(try closed(), negative: false) }
        if take("?!") { return .look(try closed(), negative: true) }
        if take("?i:") {
            foldsCase = true
        } else if !take("?:"), at < text.count, text[at] == "?" {
            throw refusal("a group '(?\(at + 1 < text.count ? String(text[at + 1]) : "")'")
        }
        return try closed()
    }

    private mutating func closed() throws -> Node {
        let node = try choice()
        guard take(")") else { throw refusal("an open '('") }
        return node
    }

    private mutating func set() throws -> ScalarSet {
        var set = ScalarSet(negated: take("^"))
        while !take("]") {
            guard at < text.count else { throw refusal("an open '['") }
            let item = try setItem()
            let isRange = at + 1 < text.count && text[at] == "-" && text[at + 1] != "]"
            guard isRange, let low = item.ranges.first?.lowerBound else {
                set.kinds.formUnion(item.kinds)
                set.ranges += item.ranges
                continue
            }
            at += 1
            guard let high = try setItem().ranges.first?.lowerBound, high >= low else {
                throw refusal("a strange range")
            }
            set.ranges.append(low...high)
        }
        return set
    }

    private mutating func setItem() throws -> ScalarSet {
        if take("\\") { return try escape() }
        guard text[at] != "[", !take("&&") else { throw refusal("a set within a set") }
        defer { at += 1 }
        return literal(text[at])
    }

    private mutating func escape() throws -> ScalarSet {
        guard at < text.count else { throw refusal("a '\\' at the end") }
        let letter = text[at]
        at += 1
        switch letter {
        case "s": return ScalarSet(kinds: .space)
        case "S": return ScalarSet(kinds: .notSpace)
        case "d": return ScalarSet(kinds: .decimalDigit)
        case "D": return ScalarSet(kinds: .anyCategory.subtracting(.decimalDigit))
        case "p", "P": return try property(negated: letter == "P")
        case "n": return literal("\n")
        case "r": return literal("\r")
        case "t": return literal("\t")
        case "u": return try hexadecimal(length: 4)
        case "x" where take("{"):
            guard let close = text[at...].firstIndex(of: "}") else { throw refusal("an open '\\x{'") }
            defer { at = close + 1 }
            return try hexadecimal(length: close - at)
        case "x": return try hexadecimal(length: 2)
        case _ where letter.isASCII && !letter.properties.isAlphabetic && !("0"..."9").contains(letter):
            return literal(letter)
        default: throw refusal("the escape '\\\(letter)'")
        }
    }

    private mutating func property(negated: Bool) throws -> ScalarSet {
        guard take("{"), let close = text[at...].firstIndex(of: "}") else { throw refusal("an open '\\p{'") }
        let name = String(String.UnicodeScalarView(text[at..<close]))
        at = close + 1
        guard let kinds = ScalarKinds(property: name) else { throw refusal("the property '\(name)'") }
        return ScalarSet(kinds: negated ? .anyCategory.subtracting(kinds) : kinds)
    }

    private mutating func hexadecimal(length: Int) throws -> ScalarSet {
        guard at + length <= text.count,
            let value = UInt32(String(String.UnicodeScalarView(text[at..<(at + length)])), radix: 16)
        else { throw refusal("a strange hexadecimal escape") }
        at += length
        return ScalarSet(ranges: [value...value])
    }

    /// The scalar, and where case is folded all that fold to the same: `s` is also `S` and the long `ſ`.
    private func literal(_ scalar: Unicode.Scalar) -> ScalarSet {
        guard foldsCase else { return ScalarSet(ranges: [scalar.value...scalar.value]) }
        var variants = [scalar, folded(scalar, \.uppercaseMapping), folded(scalar, \.lowercaseMapping)]
        if "sS".unicodeScalars.contains(scalar) { variants.append("ſ") }
        if "kK".unicodeScalars.contains(scalar) { variants.append("\u{212A}") }
        return ScalarSet(ranges: variants.map { $0.value...$0.value })
    }

    private func folded(_ scalar: Unicode.Scalar, _ how: (Unicode.Scalar.Properties) -> String) -> Unicode.Scalar {
        let mapped = how(scalar.properties).unicodeScalars
        return mapped.count == 1 ? mapped.first ?? scalar : scalar
    }

    private func canBeEmpty(_ node: Node) -> Bool {
        switch node {
        case .set: false
        case .all(let nodes): nodes.allSatisfy(canBeEmpty)
        case .any(let nodes): nodes.contains(where: canBeEmpty)
        case .times(let inner, let least, _, _): least == 0 || canBeEmpty(inner)
        case .look, .start, .end: true
        }
    }

    // MARK: - Compiling

    private mutating func emit(_ node: Node) {
        switch node {
        case .set(let set): steps.append(.one(set))
        case .start: steps.append(.start)
        case .end: steps.append(.end)
        case .all(let nodes): for node in nodes { emit(node) }
        case .any(let nodes): emit(options: nodes)
        case .times(.set(let set), let least, let most, let greed):
            steps.append(.repeated(set, atLeast: least, atMost: most, greed))
        case .times(let inner, let least, let most, let greed): emit(inner, least, most, greed)
        case .look(let body, let negative):
            let here = hole()
            emit(body)
            steps.append(.accept)
            steps[here] = .look(ahead: here + 1, negative: negative, then: steps.count)
        }
    }

    private mutating func hole() -> Int {
        steps.append(.accept)
        return steps.count - 1
    }

    private mutating func emit(options: [Node]) {
        var ends: [Int] = []
        for node in options.dropLast() {
            let here = hole()
            emit(node)
            ends.append(hole())
            steps[here] = .split(here + 1, steps.count)
        }
        if let last = options.last { emit(last) }
        for end in ends { steps[end] = .jump(steps.count) }
    }

    private mutating func emit(_ inner: Node, _ least: Int, _ most: Int, _ greed: Pattern.Greed) {
        for _ in 0..<least { emit(inner) }
        let optional = most == .max ? 1 : most - least
        var holes: [Int] = []
        for _ in 0..<optional {
            let here = hole()
            holes.append(here)
            emit(inner)
            if most == .max { steps.append(.jump(here)) }
        }
        for here in holes {
            steps[here] = greed == .lazy ? .split(steps.count, here + 1) : .split(here + 1, steps.count)
        }
    }
}
