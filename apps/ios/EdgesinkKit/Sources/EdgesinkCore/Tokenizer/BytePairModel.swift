/// Byte-pair merges: the `model` of tokenizer.json. Turns one word into ids.
struct BytePairModel: Sendable {
    private struct Merge: Sendable {
        let rank: Int32
        let id: Int32
    }

    private let idOfToken: [[UInt8]: Int32]  // by UTF-8: `String` would call composed and decomposed letters equal
    private let idOfScalar: [UInt32: Int32]  // the tokens of one character
    private let tokenOfId: [Int32: String]
    private let merges: [UInt64: Merge]
    private let idOfByte: [Int32?]  // <0x00> … <0xFF>, where characters fall back on bytes
    private let unknown: Int32?
    private let fusesUnknown: Bool
    private let ignoresMerges: Bool

    init(_ json: JSON) throws {
        let type = json["type"]?.string ?? "BPE"
        guard type == "BPE", let vocabulary = json["vocab"]?.object, let mergeList = json["merges"]?.array else {
            throw unsupported("model", type)
        }
        for affix in ["continuing_subword_prefix", "end_of_word_suffix"] where json[affix]?.string?.isEmpty == false {
            throw unsupported("model with", affix)
        }
        if let dropout = json["dropout"]?.double, dropout > 0 { throw unsupported("model with", "dropout") }

        var idOfToken: [[UInt8]: Int32] = .init(minimumCapacity: vocabulary.count)
        var tokenOfId: [Int32: String] = .init(minimumCapacity: vocabulary.count)
        var idOfScalar: [UInt32: Int32] = [:]
        for (token, value) in vocabulary {
            guard let id = value.int.flatMap(Int32.init(exactly:)) else { throw unsupported("id", value.shown) }
            idOfToken[Array(token.utf8)] = id
            tokenOfId[id] = token
            let only = token.unicodeScalars
            if let scalar = only.first, only.index(after: only.startIndex) == only.endIndex {
                idOfScalar[scalar.value] = id
            }
        }
        (self.idOfToken, self.tokenOfId, self.idOfScalar) = (idOfToken, tokenOfId, idOfScalar)
        merges = try Self.table(mergeList, idOfToken)
        let falls = json["byte_fallback"]?.bool ?? false
        idOfByte = (0..<256).map { falls ? idOfToken[Array(Self.spelled(UInt8($0)).utf8)] : nil }
        unknown = json["unk_token"]?.string.flatMap { idOfToken[Array($0.utf8)] }
        fusesUnknown = json["fuse_unk"]?.bool ?? false
        ignoresMerges = json["ignore_merges"]?.bool ?? false
    }

    private static func table(_ list: [JSON], _ idOfToken: [[UInt8]: Int32]) throws -> [UInt64: Merge] {
        var table: [UInt64: Merge] = .init(minimumCapacity: list.count)
        for (rank, entry) in list.enumerated() {
            let parts: [[UInt8]]
            if let pair = entry.array {
                parts = pair.map { Array(($0.string ?? "").utf8) }
            } else {
                parts = (entry.string ?? "").utf8.split(separator: 0x20, omittingEmptySubsequences: false).map(
                    Array.init)
            }
            guard parts.count == 2, let left = idOfToken[parts[0]], let right = idOfToken[parts[1]],
                let id = idOfToken[parts[0] + parts[1]]
            else { throw unsupported("merge", entry.shown) }
            table[key(left, right)] = Merge(rank: Int32(rank), id: id)
        }
        return table
    }

    private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
        UInt64(UInt32(left)) << 32 | UInt64(UInt32(right))
    }

    private static func spelled(_ byte: UInt8) -> String {
        let digits = String(byte, radix: 16, uppercase: true)
        return "<0x\(digits.count == 1 ? "0" : "")\(digits)>"
    }

    var ids: [Int32] { Array(tokenOfId.keys) }

    func token(_ id: Int32) -> String? { tokenOfId[id] }

    func id(_ token: String) -> Int32? { idOfToken[Array(token.utf8)] }

    /// Ids of one word.
    func encode(_ word: ArraySlice<UInt32>) -> [Int32] {
        if ignoresMerges, let id = id(text(word)) { return [id] }
        return merged(symbols(word))
    }

    private func symbols(_ word: ArraySlice<UInt32>) -> [Int32] {
        var out: [Int32] = []
        var lastIsUnknown = false
        for scalar in word {
            if let id = idOfScalar[scalar] {
                out.append(id)
                lastIsUnknown = false
            } else if let bytes = fallback(scalar) {
                out += bytes
                lastIsUnknown = false
            } else if let unknown, !(fusesUnknown && lastIsUnknown) {
                out.append(unknown)
                lastIsUnknown = true
            }
        }
        return out
    }

    private func fallback(_ scalar: UInt32) -> [Int32]? {
        guard let scalar = Unicode.Scalar(scalar), let bytes = UTF8.encode(scalar) else { return nil }
        let ids = bytes.compactMap { idOfByte[Int($0)] }
        return ids.count == bytes.count ? ids : nil
    }

    /// Merges the best-ranked pair, the leftmost of equals, until there is none: a heap over a linked list, as words
    /// can be whole texts where nothing splits them.
    private func merged(_ symbols: [Int32]) -> [Int32] {
        guard symbols.count > 1 else { return symbols }
        var ids = symbols  // -1 where a symbol went into the one before it
        var next = Array(1...symbols.count)  // symbols.count ends the list
        var previous = Array(-1..<(symbols.count - 1))
        var heap = Heap()
        func offer(_ left: Int, _ right: Int) {
            if let merge = merges[Self.key(ids[left], ids[right])] { heap.push(.init(merge.rank, left, merge.id)) }
        }
        for left in 0..<(symbols.count - 1) { offer(left, left + 1) }
        while let best = heap.pop() {
            let (left, right) = (best.left, next[best.left])
            guard ids[left] >= 0, right < ids.count, merges[Self.key(ids[left], ids[right])]?.id == best.id else {
                continue  // an older offer: one side has merged since
            }
            ids[left] = best.id
            ids[right] = -1
            next[left] = next[right]
            if next[left] < ids.count { previous[next[left]] = left }
            if previous[left] >= 0 { offer(previous[left], left) }
            if next[left] < ids.count { offer(left, next[left]) }
        }
        return ids.filter { $0 >= 0 }
    }
}

/// Offers to merge, best first.
private struct Heap {
    struct Offer {
        let order: UInt64  // rank, then place
        let left: Int
        let id: Int32

        init(_ rank: Int32, _ left: Int, _ id: Int32) {
            (order, self.left, self.id) = (UInt64(rank) << 32 | UInt64(left), left, id)
        }
    }

    private var items: [Offer] = []

    mutating func push(_ offer: Offer) {
        items.append(offer)
        var child = items.count - 1
        while child > 0, items[child].order < items[(child - 1) / 2].order {
            items.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    mutating func pop() -> Offer? {
        guard let top = items.first else { return nil }
        let last = items.removeLast()
        guard !items.isEmpty else { return top }
        items[0] = last
        var parent = 0
        while true {
            var child = 2 * parent + 1
            guard child < items.count else { return top }
            if child + 1 < items.count, items[child + 1].order < items[child].order { child += 1 }
            guard items[child].order < items[parent].order else { return top }
            items.swapAt(child, parent)
            parent = child
        }
    }
}
