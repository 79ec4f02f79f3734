/// Where token n of an endless stream lives in a buffer of fixed size, and what it sees.
///
/// The integer arithmetic of the attention-sink + window ring (StreamingLLM, Xiao et al. 2023, section 3.2) and
/// nothing else. The twin of `edgesink/ring.py`; both are held to `tests/golden/ring.json`.
///
/// Rows 0 ..< sinks keep the first tokens forever, the other `slots` rows are a ring of window + chunk - 1: the first
/// query of a chunk still needs a full window of keys while the last token of the chunk is already written.
public struct Ring: Equatable, Sendable {
    public let sinks: Int  // S, pinned first tokens
    public let capacity: Int  // C, tokens seen at most, the current one included
    public let chunk: Int  // T, most tokens written at once

    public init(sinks: Int, capacity: Int, chunk: Int = 1) throws {
        (self.sinks, self.capacity, self.chunk) = (sinks, capacity, chunk)
        if chunk < 1 { throw EdgesinkError(.badOption, "chunk = \(chunk)", expected: "at least 1") }
        if sinks < 0 { throw EdgesinkError(.badOption, "sinks = \(sinks)", expected: "0 or more") }
        if window < chunk {
            throw EdgesinkError(
                .badOption, "a window of \(window) tokens (capacity \(capacity) - sinks \(sinks))",
                expected: "at least one chunk, \(chunk) tokens",
                remedy: "take fewer sinks, or export with a larger window or a smaller chunk")
        }
    }

    /// W: the most recent tokens that a token sees, itself included.
    public var window: Int { capacity - sinks }

    /// R: rows of the ring.
    public var slots: Int { window + chunk - 1 }

    /// Rows of the whole buffer; the same for every number of sinks.
    public var rows: Int { capacity + chunk - 1 }

    /// The buffer row that `token` is written to.
    public func slot(_ token: Int) -> Int {
        token < sinks ? token : sinks + (token - sinks) % slots
    }

    /// The token that `slot` holds once tokens 0 ..< position are written; nil if it was never written.
    public func held(_ slot: Int, position: Int) -> Int? {
        if slot < sinks { return slot < position ? slot : nil }
        let newest = position - 1 - sinks
        let age = (newest - (slot - sinks)) % slots
        let token = newest - (age < 0 ? age + slots : age)
        return token >= 0 ? sinks + token : nil
    }

    /// The tokens that `token` sees, in order: the sinks, then the window up to and including itself.
    public func visible(_ token: Int) -> [Int] {
        Array(0..<min(sinks, token + 1)) + Array(stride(from: max(sinks, token - window + 1), through: token, by: 1))
    }

    /// The in-cache position of `token` as a query: how many tokens it sees, minus one.
    public func queryPosition(_ token: Int) -> Int { min(token, capacity - 1) }

    /// A stand-in for `token` below sinks + 2 slots, with the same slot and the same visible slots: what a graph
    /// that cannot hold large integers can be driven by endlessly.
    public func frame(_ token: Int) -> Int {
        let end = sinks + slots
        return token < end ? token : end + (token - end) % slots
    }

    /// How many of the tokens 0 ..< position the newest of them no longer sees.
    public func evicted(_ position: Int) -> Int { max(0, position - capacity) }

    /// Sizes of the pieces that a run of `length` tokens is fed in.
    public func chunks(_ length: Int) -> [Int] {
        stride(from: 0, to: length, by: chunk).map { min(chunk, length - $0) }
    }
}
