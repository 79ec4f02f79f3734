/// Tokens that are cut out of the text before anything else: `<|im_start|>`, `<s>`.
struct AddedTokens: Sendable {
    struct Entry: Sendable {
        let id: Int32
        let content: String
        let isSpecial: Bool
        let isNormalized: Bool  // looked for in the normalized text
        let isWord: Bool  // only between non-word characters
        let stripsLeft: Bool  // takes the white space before it
        let stripsRight: Bool
    }

    enum Part {
        case text(ArraySlice<UInt32>)
        case token(Int32)
    }

    private let byId: [Int32: Entry]
    private let plain: Finder
    private let normalized: Finder

    init(_ json: [JSON], _ normalizer: Normalizer?) throws {
        self.init(try json.map(Entry.init), normalizer)
    }

    init(_ entries: [Entry], _ normalizer: Normalizer?) {
        byId = Dictionary(entries.map { ($0.id, $0) }, uniquingKeysWith: { $1 })
        plain = Finder(entries.filter { !$0.isNormalized }.map { (scalars($0.content), $0) })
        normalized = Finder(
            entries.filter(\.isNormalized).map {
                (normalizer?.normalized(scalars($0.content)) ?? scalars($0.content), $0)
            })
    }

    var ids: [Int32] { Array(byId.keys) }

    /// Ids of the tokens that are marked special.
    var specialIds: [Int32] { byId.values.filter(\.isSpecial).map(\.id) }

    /// The same with `entry` instead of each, and one more.
    func changed(_ entry: (Entry) -> Entry, and another: Entry, _ normalizer: Normalizer?) -> AddedTokens {
        AddedTokens(byId.values.map(entry) + [another], normalizer)
    }

    func token(_ id: Int32) -> String? { byId[id]?.content }

    func isSpecial(_ id: Int32) -> Bool { byId[id]?.isSpecial ?? false }

    func id(_ content: String) -> Int32? {
        byId.values.first { $0.content.utf8.elementsEqual(content.utf8) }?.id
    }

    /// `text` cut at the added tokens, what is between them normalized.
    func split(_ text: [UInt32], _ normalizer: Normalizer?) -> [Part] {
        plain.split(text[...]).flatMap { part -> [Part] in
            guard case .text(let piece) = part else { return [part] }
            return normalized.split((normalizer?.normalized(Array(piece)) ?? Array(piece))[...])
        }
    }
}

extension AddedTokens.Entry {
    init(_ json: JSON) throws {
        guard let id = json["id"]?.int.flatMap(Int32.init(exactly:)), let content = json["content"]?.string else {
            throw unsupported("added token", json.shown)
        }
        (self.id, self.content) = (id, content)
        isSpecial = json["special"]?.bool ?? false
        isNormalized = json["normalized"]?.bool ?? !isSpecial
        isWord = json["single_word"]?.bool ?? false
        stripsLeft = json["lstrip"]?.bool ?? false
        stripsRight = json["rstrip"]?.bool ?? false
    }
}

/// Finds the longest added token at the leftmost place, again and again.
private struct Finder: Sendable {
    private var byFirst: [UInt32: [(spelling: [UInt32], entry: AddedTokens.Entry)]] = [:]

    init(_ entries: [(spelling: [UInt32], entry: AddedTokens.Entry)]) {
        for item in entries {
            if let first = item.spelling.first { byFirst[first, default: []].append(item) }
        }
        byFirst = byFirst.mapValues { $0.sorted { $0.spelling.count > $1.spelling.count } }
    }

    func split(_ text: ArraySlice<UInt32>) -> [AddedTokens.Part] {
        var parts: [AddedTokens.Part] = []
        var (done, at) = (text.startIndex, text.startIndex)
        while at < text.endIndex {
            guard let (length, entry) = longest(text, at) else {
                at += 1
                continue
            }
            var (start, end) = (at, at + length)
            at = end
            if entry.isWord, isWord(text, start - 1) || isWord(text, end) { continue }
            if entry.stripsLeft { while start > done, isSpace(text[start - 1]) { start -= 1 } }
            if entry.stripsRight { while end < text.endIndex, isSpace(text[end]) { end += 1 } }
            if done < start { parts.append(.text(text[done..<start])) }
            parts.append(.token(entry.id))
            (done, at) = (end, max(at, end))
        }
        if done < text.endIndex { parts.append(.text(text[done...])) }
        return parts
    }

    private func longest(_ text: ArraySlice<UInt32>, _ at: Int) -> (Int, AddedTokens.Entry)? {
        guard let candidates = byFirst[text[at]] else { return nil }
        let found = candidates.first {
            at + $0.spelling.count <= text.endIndex && text[at..<(at + $0.spelling.count)].elementsEqual($0.spelling)
        }
        return found.map { ($0.spelling.count, $0.entry) }
    }

    private func isSpace(_ scalar: UInt32) -> Bool { ScalarKinds(of: scalar).contains(.space) }

    /// Whether there is a word character at `at` (UTS 18: letters, marks, digits, connectors, joiners).
    private func isWord(_ text: ArraySlice<UInt32>, _ at: Int) -> Bool {
        guard text.indices.contains(at), let scalar = Unicode.Scalar(text[at]) else { return false }
        let word = ScalarKinds.mark.union([.decimalDigit, ScalarKinds(.connectorPunctuation)])
        return scalar.properties.isAlphabetic || scalar.properties.isJoinControl
            || !word.isDisjoint(with: ScalarKinds(of: text[at]))
    }
}
