import EdgesinkCore

/// A stretch of a stream as text: which scalars each token has, which word it is part of, and what it counts. The twin
/// of `edgesink/memory/spoken.py`.
struct Spoken {
    let text: Scalars
    let ends: [Int]  // for every token, the scalars up to its end

    /// What the ids say; a scalar of several tokens counts to the last of them.
    init(_ ids: [Int], _ tokenizer: Tokenizer) {
        var detokenizer = Detokenizer(tokenizer)
        var (text, ends) = (Scalars(), [Int]())
        for id in ids {
            text += detokenizer.push(id).unicodeScalars
            ends.append(text.count)
        }
        (self.text, self.ends) = (text + detokenizer.finish().unicodeScalars, ends)
    }

    /// For every token the word that it is part of, in lower case; empty for one that is in none, or a common one.
    func words() -> [Scalars] {
        var found = [Scalars](repeating: [], count: ends.count)
        for (start, end, word) in Words.spans(of: text) where !Words.common.contains(word) {
            let (first, last) = (ends.count(upTo: start), min(ends.count(upTo: end - 1) + 1, found.count))
            for token in first..<max(first, last) where found[token].isEmpty {
                found[token] = word
            }
        }
        return found
    }

    /// The token that has a scalar.
    func token(of scalar: Int) -> Int { min(ends.count(upTo: scalar), ends.count) }

    /// What each token counts, summing to 1 if any counts: its word's rarity.
    static func weights(of words: [Scalars], _ rarity: Rarity) -> [Float] {
        let known = Dictionary(rarity.pairs.map { ($0, Float($1)) }, uniquingKeysWith: { $1 })
        let found = words.map { known[$0] ?? 0 }
        let sum = found.reduce(0, +)
        return sum > 0 ? found.map { $0 / sum } : found
    }
}
