/// Turns ids into text as they come; what it returns never ends in half a character. The twin of the class of the same
/// name in `runtime/tokenizer.py`: both show the same text with the same token.
public struct Detokenizer: Sendable {
    private let tokenizer: Tokenizer
    private var ids: [Int] = []
    private var open = 0  // ids before this one have been handed out

    private static let context = 8  // ids kept before the open ones, so that joining rules see their neighbours
    private static let replacement: Unicode.Scalar = "\u{FFFD}"  // bytes that are no character, or not yet

    public init(_ tokenizer: Tokenizer) { self.tokenizer = tokenizer }

    /// The text that became certain with this id; empty while a character is incomplete.
    public mutating func push(_ id: Int) -> String {
        ids.append(id)
        return certain(final: false)
    }

    /// What is left, incomplete bytes as the replacement character.
    public mutating func finish() -> String { certain(final: true) }

    private mutating func certain(final: Bool) -> String {
        let before = tokenizer.decode(ids[..<open]).unicodeScalars.count
        let whole = tokenizer.decode(ids).unicodeScalars
        if whole.last == Self.replacement, !final, ids.count - open < Self.context { return "" }
        ids = ids.suffix(Self.context)
        open = ids.count
        return String(String.UnicodeScalarView(whole.dropFirst(before)))
    }
}
