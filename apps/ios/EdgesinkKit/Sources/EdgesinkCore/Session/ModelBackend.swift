import Foundation

/// What a stream needs of whatever runs its graph: a backend owns the graph and its state, and knows token ids and
/// positions, not text and not sampling.
public protocol ModelBackend: Sendable {
    /// Runs ids (1 … the bundle's chunk of them) that stand at `position`, `position + 1` … of a stream with `sinks`
    /// pinned tokens.
    ///
    /// Returns float32 [V], the logits after the last id.
    func feed(_ ids: [Int], position: Int, sinks: Int) async throws -> [Float]

    /// A copy of the state: what a session file holds.
    func state() async throws -> [StateTensor]

    /// Overwrites the state with tensors of the same names, types and shapes.
    func load(_ state: [StateTensor]) async throws
}

/// One buffer of the state, [any, K, rows, D].
public struct StateTensor: Equatable, Sendable {
    public let name: String
    public let dtype: StateDtype
    public let shape: [Int]
    public let bytes: Data  // row-major

    public init(name: String, dtype: StateDtype, shape: [Int], bytes: Data) {
        (self.name, self.dtype, self.shape, self.bytes) = (name, dtype, shape, bytes)
    }

    /// The same with nothing in it.
    var zeroed: StateTensor { StateTensor(name: name, dtype: dtype, shape: shape, bytes: Data(count: bytes.count)) }
}
