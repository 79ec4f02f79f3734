import EdgesinkCore

/// Passages as the ids of pinned tokens. The twin of `pinned_ids` in `edgesink/memory/recalling.py`.
///
/// Owns what is pinned, and of how many rows a stream may spare some for it. That they are put back is `Memory`'s.
enum PinnedPassages {
    static let reserve = 128  // pinned rows for what is brought back, where a bundle can pin so many
    static let fewestRows = 32  // with fewer nothing is brought back in pinned rows
    static let count = 1  // passages that are pinned at most, instructions and what a passage needs not counted

    /// The pinned rows of a new stream that pins `own` without a memory, in a bundle that can pin `most`: with those for
    /// what is brought back, or just its own where there is no room for any.
    static func sinks(own: Int, most: Int) -> Int { most - own >= fewestRows ? min(own + reserve, most) : own }

    /// Ids to pin in the place of a stream's first: its true first ones, then passages, over and over to the end; and the
    /// passages, those for which there is room.
    ///
    /// Repeating them is emphasis, which decides for a small model. A passage that cannot be encoded is left out. No ids
    /// if not even one fits.
    static func ids(
        first: [Int], wishes: [Passage], found: [Passage], sinks: Int, _ encode: (String) throws -> [Int]
    ) throws -> (ids: [Int], passages: [Passage]) {
        let room = sinks - first.count
        var (once, passages) = ([Int](), [Passage]())
        for passage in found + wishes.reversed() {
            let ids: [Int]
            do {
                ids = try encode(Quotation.inOneLine(passage) + "\n")
            } catch let error as EdgesinkError where error.kind == .badOption {
                continue
            }
            guard once.count + ids.count <= room else { continue }
            once = ids + once  // the best last
            passages.append(passage)
        }
        if once.isEmpty { return ([], []) }
        let (times, rest) = room.quotientAndRemainder(dividingBy: once.count)
        return (first + once.suffix(rest) + Array(repeating: once, count: times).flatMap { $0 }, passages)
    }
}
