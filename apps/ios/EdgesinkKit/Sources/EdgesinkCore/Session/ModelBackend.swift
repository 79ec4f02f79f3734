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

    /// A copy of one buffer of the state; nil if there is none of that name.
    func state(_ name: String) async throws -> StateTensor?

    /// Overwrites the state with tensors of the same names, types and shapes.
    func load(_ state: [StateTensor]) async throws
}

extension ModelBackend {
    public func state(_ name: String) async throws -> StateTensor? { try await state().first { $0.name == name } }
}

/// One buffer of the state, [any, K, rows, D].
public struct StateTensor: Equatable, Sendable {
    public let name: String
    public let dtype: StateDtype
    public let shape: [Int]
    public internal(set) var bytes: Data  // row-major

    public init(name: String, dtype: StateDtype, shape: [Int], bytes: Data) {
        (self.name, self.dtype, self.shape, self.bytes) = (name, dtype, shape, bytes)
    }

    /// What rows of a block hold, those of all heads one after the other: float32 [rows, K D].
    func floats(block: Int, rows: [Int]) -> [Float] {
        let (heads, size) = (shape[1], shape[3])
        return bytes.withUnsafeBytes { memory in
            rows.flatMap { row in
                (0..<heads * size).map { place in
                    let head = place / size
                    let item = ((block * heads + head) * shape[2] + row) * size + place % size
                    return switch dtype {
                    case .float32: memory.loadUnaligned(fromByteOffset: 4 * item, as: Float.self)
                    case .float16: HalfFloat.float(memory.loadUnaligned(fromByteOffset: 2 * item, as: UInt16.self))
                    }
                }
            }
        }
    }

    /// The same with nothing in it.
    var zeroed: StateTensor { StateTensor(name: name, dtype: dtype, shape: shape, bytes: Data(count: bytes.count)) }
}
