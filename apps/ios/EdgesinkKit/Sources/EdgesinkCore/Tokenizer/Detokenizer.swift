/// Turns ids into text as they come; what it returns never ends in half a character. The twin of the class of the same
/// name in `runtime/tokenizer.py`: both show the same text with the same token.
public struct Detokenizer: Sendable {
    private let tokenizer: Tokenizer
    private let skipsSpecial: Bool
    private var decoder: TokenDecoder

    public init(_ tokenizer: Tokenizer, skipSpecial: Bool = true) {
        (self.tokenizer, skipsSpecial, decoder) = (tokenizer, skipSpecial, tokenizer.decoder)
    }

    /// The text that became certain with this id; empty while a character is incomplete.
    public mutating func push(_ id: Int) -> String {
        guard let token = tokenizer.token(id), !(skipsSpecial && tokenizer.isSpecial(id)) else { return "" }
        return decoder.push(token)
    }

    /// What is left at the end, incomplete bytes as the replacement character.
    public mutating func finish() -> String { decoder.finish() }
}
