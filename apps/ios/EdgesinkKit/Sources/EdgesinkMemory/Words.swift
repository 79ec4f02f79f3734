import Foundation

/// A passage that a search found.
struct Hit: Equatable {
    let passage: Int
    var score: Double  // 0 … 1
}

/// How rare words are in an archive, in the order of a message.
struct Rarity {
    let words: [Scalars]
    let values: [Double]  // log of the passages for each that has the word, at least 0

    var pairs: Zip2Sequence<[Scalars], [Double]> { zip(words, values) }
}

/// Searching by words: what of a question is worth looking for, and the passages that have it. The twin of
/// `edgesink/memory/words.py`.
///
/// Owns the full-text query, how rare words are, and how much of what is rare in a question each passage holds; when
/// that is enough is `Search`'s. Words that are everywhere in English are left out; in other languages their frequency
/// in the archive says so.
enum Words {
    static let bound = 200  // passages: a word that is in more is not counted further
    static let spread = 4.0  // a word that is e^4 times as frequent as the rarest of a message is not looked for
    static let common = Set(commonWords.split(whereSeparator: \.isWhitespace).map { Scalars($0) })

    /// The words of a text that say what it is about, each once, in order, in lower case.
    static func content(of text: Scalars) -> [Scalars] {
        var known = common
        return spans(of: text).map(\.word).filter { known.insert($0).inserted }
    }

    /// Where the words of a text begin and end, and how they are looked for: in lower case, without an 's.
    static func spans(of text: Scalars) -> [(start: Int, end: Int, word: Scalars)] {
        var found: [(start: Int, end: Int, word: Scalars)] = []
        var at = 0
        while at < text.count {
            let start = at
            at = endOfPart(text, at)
            guard at > start else {
                at += 1
                continue
            }
            while at + 1 < text.count, text[at] == "'" || text[at] == "\u{2019}", text[at + 1].isOfWord {
                at = endOfPart(text, at + 1)
            }
            var word = text[start..<at].lowercased.map { $0 == "\u{2019}" ? "'" : $0 }
            if word.suffix(2) == ["'", "s"] { word.removeLast(2) }
            found.append((start, at, word))
        }
        return found
    }

    private static func endOfPart(_ text: Scalars, _ start: Int) -> Int {
        text[start...].firstIndex { !$0.isOfWord } ?? text.count
    }

    /// How rare each word is in the archive.
    static func rarity(of words: [Scalars], _ database: Database) throws -> Rarity {
        let passages = try database.int("SELECT count(*) FROM passage")
        let values = try words.map { word in
            let having = try database.int(
                "SELECT count(*) FROM (SELECT 1 FROM word WHERE word MATCH ? LIMIT ?)", [quoted(word), .int(bound)])
            return max(0, log(Double(passages + 1) / (Double(having) + 0.5)))
        }
        return Rarity(words: words, values: values)
    }

    /// The passages that fit best by BM25, at most `count`, and how much of the question's rarity each of them holds.
    static func search(_ rarity: Rarity, count: Int, _ database: Database) throws -> [Hit] {
        guard let rarest = rarity.values.max() else { return [] }
        let least = rarest - spread  // of a frequent word every passage would have to be ranked
        let query = rarity.pairs.filter { $0.1 >= least }.map { spelled($0.0) }.joined(separator: " OR ")
        let rows = try database.run(
            "SELECT rowid FROM word WHERE word MATCH ? ORDER BY rank LIMIT ?", [.text(query), .int(count)])
        let whole = rarity.values.reduce(0, +)
        var held: [SQLValue: Double] = [:]
        let marks = Archive.marks(rows.count)
        for (word, rare) in rarity.pairs {
            let having = try database.run(
                "SELECT rowid FROM word WHERE word MATCH ? AND rowid IN (\(marks))",
                [quoted(word)] + rows.map { $0[0] })
            for row in having { held[row[0], default: 0] += whole > 0 ? rare / whole : 0 }
        }
        return try rows.map { row in
            guard case .int(let passage) = row[0] else { throw SQLError.damage("a passage's number is none") }
            return Hit(passage: passage, score: held[row[0]] ?? 0)
        }
    }

    /// A word as FTS5 looks for it, whatever it holds.
    private static func quoted(_ word: Scalars) -> SQLValue { .text(spelled(word)) }

    private static func spelled(_ word: Scalars) -> String {
        "\"" + String(word).replacing("\"", with: "\"\"") + "\""
    }
}
