/// A tokenizer whose control tokens have other spellings, for `TurnEncoder`.
extension Tokenizer {
    /// Ids of the tokens that are marked special.
    var specialIds: [Int] { added.specialIds.map(Int.init) }

    /// The same tokenizer with other spellings of some added tokens, which it encodes to ids below zero (`respelled`); and
    /// a token `gap` that only keeps apart what stands around it.
    func spelling(_ spellings: [Int: String], gap: String) -> Tokenizer {
        var twin = self
        let between = AddedTokens.Entry(
            id: Self.gapId, content: gap, isSpecial: true, isNormalized: false, isWord: false, stripsLeft: false,
            stripsRight: false)
        twin.added = added.changed(
            { entry in
                guard let content = spellings[Int(entry.id)] else { return entry }
                return AddedTokens.Entry(
                    id: Self.gapId - 1 - entry.id, content: content, isSpecial: true, isNormalized: entry.isNormalized,
                    isWord: false, stripsLeft: entry.stripsLeft, stripsRight: entry.stripsRight)
            }, and: between, normalizer)
        return twin
    }

    /// The id of an added token that was spelled anew; nil for others.
    static func respelled(_ id: Int) -> Int? { id < Int(gapId) ? Int(gapId) - 1 - id : nil }

    private static let gapId: Int32 = -1
}
