/// Searching by meaning: the question's own value rows against those of passages, token by token. The twin of
/// `edgesink/memory/likeness.py`.
///
/// A passage is as like a question as the question's tokens are, weighted by how rare they are, to whatever token of the
/// passage is most like each, and a little as the means of both are alike. All passages are compared by their means
/// (`Packs`), and the best few hundred exactly. Owns this arithmetic; which passages may be found is the caller's.
enum Likeness {
    private static let ofMeans: Float = 0.5  // what the likeness of means counts, where that of tokens counts 1
    static let exact = 400  // passages that are compared exactly

    /// The passages most like a question, the best first, at most `count`.
    ///
    /// `space`: the name of the calibration. `question`: vectors of length 1. `weights`: what each counts, summing to 1.
    static func search(
        _ question: Rows, weights: [Float], space: String, count: Int, _ database: Database
    ) throws -> [Hit] {
        let counted = weights.indices.filter { weights[$0] > 0 }
        let row = try database.run("SELECT id FROM space WHERE name = ?", [.text(space)]).first
        guard case .int(let number)? = row?.first, !counted.isEmpty else { return [] }
        let (question, weights) = (question.picked(counted), counted.map { weights[$0] })
        let passages = try rough(question.summed(weights), number, database)
        let hits = try compared(passages, question, weights, database)
        return Array(hits.sorted { ($1.score, $0.passage) < ($0.score, $1.passage) }.prefix(count))
    }

    /// Passages that are worth an exact comparison, and the cosine of their means with that of the question [d].
    private static func rough(_ question: [Float], _ space: Int, _ database: Database) throws -> [Int: Float] {
        let length = max(question.length, 1e-9)
        var found: [(passage: Int, score: Float)] = []
        try Packs.read(space, database) { means in
            guard means.width == question.count else {
                throw SQLError.damage("a mean has \(means.width) numbers, not \(question.count)")
            }
            for (place, passage) in means.passages.enumerated() {
                var (dot, squares): (Float, Int) = (0, 0)
                for (number, asked) in zip(means.vectors[(place * means.width)...], question) {
                    dot += Float(number) * asked
                    squares += Int(number) * Int(number)
                }
                found.append((passage, dot / length / max(Float(squares).squareRoot(), 1)))
            }
        }
        if found.count > exact {
            found.sort { $0.score > $1.score }
            found.removeLast(found.count - exact)
        }
        return Dictionary(found.map { ($0.passage, $0.score) }, uniquingKeysWith: { $1 })
    }

    private static func compared(
        _ rough: [Int: Float], _ question: Rows, _ weights: [Float], _ database: Database
    ) throws -> [Hit] {
        let passages = rough.keys.sorted()
        let rows = try database.run(
            "SELECT passage, tokens FROM vectors WHERE passage IN (\(Archive.marks(passages.count))) ORDER BY passage",
            passages.map { .int($0) })
        return try rows.map { row in
            guard case .int(let passage) = row[0] else { throw SQLError.damage("a passage's number is none") }
            let kept = try Packs.eightBits(row[1], "a passage's vectors", width: question.width)
            let tokens = Rows(width: question.width, kept.map(Float.init)).mapped {
                $0.normalised(least: 1 / Calibration.full)
            }
            return Hit(passage: passage, score: Double(score(tokens, question, weights, ofMean: rough[passage] ?? 0)))
        }
    }

    /// How like a passage is to a question, at most 1; vectors of length 1, weights that sum to 1; and the cosine of means.
    private static func score(_ tokens: Rows, _ question: Rows, _ weights: [Float], ofMean: Float) -> Float {
        var best: Float = 0
        for (asked, weight) in weights.enumerated() {
            let fits = (0..<tokens.count).map { tokens[$0].dot(question[asked]) }
            best += weight * (fits.max() ?? 0)
        }
        return (best + ofMeans * ofMean) / (1 + ofMeans)
    }
}
