/// What a passage needs from its neighbours: "She lives there" says something only behind the passage before it. The
/// twin of `edgesink/memory/context.py`.
enum Context {
    private static let leaning = Set(
        "he she it they his her hers its their theirs this that these those".split(separator: " ").map {
            Scalars(String($0))
        })

    /// Whether a text begins with a word that stands for something said before it (in English).
    static func leans(_ text: Scalars) -> Bool {
        Words.spans(of: text).first.map { leaning.contains($0.word) } ?? false
    }

    /// The passage of the same turn that belongs to this one: the one before, which it leans on, else the one behind,
    /// which leans on it.
    static func neighbour(of passage: Passage, in archive: Archive) throws -> Passage? {
        let near = try archive.get([passage.id - 1, passage.id + 1])
        func ofTheTurn(_ other: Passage?) -> Passage? {  // a standing instruction comes along by itself
            guard let other, other.stream == passage.stream, other.role == passage.role else { return nil }
            return other.said == passage.said && !other.isStanding ? other : nil
        }
        if leans(Scalars(passage.text)) { return ofTheTurn(near[passage.id - 1]) }
        return ofTheTurn(near[passage.id + 1]).flatMap { leans(Scalars($0.text)) ? $0 : nil }
    }

    /// The best passage and another of its turn: read backwards, as they are quoted, they stand as they were said.
    static func with(_ other: Passage, _ found: [Found]) -> [Found] {
        guard let best = found.first else { return [] }
        let along = Found(passage: other, score: best.score, way: best.way)
        let rest = found.dropFirst().filter { $0.passage.id != other.id }
        return (other.id > best.passage.id ? [along, best] : [best, along]) + rest
    }
}
