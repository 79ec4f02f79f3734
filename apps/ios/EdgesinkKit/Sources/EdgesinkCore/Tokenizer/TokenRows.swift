/// The rows of the logits that have a token: an embedding often has more rows than the tokenizer has ids. The twin of the
/// class of the same name in `runtime/sampling.py`.
public struct TokenRows: Equatable, Sendable {
    public let count: Int  // rows from here on have none
    public let holes: [Int]  // rows before that have none

    private static let most = 1 << 24  // ids beyond are a damaged file's

    public init(_ ids: some Collection<Int32>) {
        let known = Set(ids.map(Int.init).filter { (0..<Self.most).contains($0) })
        count = (known.max() ?? -1) + 1
        holes = known.count == count ? [] : (0..<count).filter { !known.contains($0) }
    }

    /// float32 [V] -> [count] at most, without a chance for a hole.
    public func rows(of logits: [Float]) -> [Float] {
        if logits.count <= count, holes.isEmpty { return logits }
        var logits = Array(logits.prefix(count))
        for hole in holes where hole < logits.count { logits[hole] = -.infinity }
        return logits
    }
}
