import Foundation

/// Keys and values of a stream's pinned tokens: rows 0 ..< sinks of every state whose view has sinks. Layers with a window
/// of their own pin nothing and are left alone. The twin of `runtime/pinned.py`.
///
/// Nothing is rotated or recomputed: a pinned key lies as it was when its stream began, so the rows of two streams of one
/// bundle with the same number of sinks may change places.
public struct PinnedRows: Equatable, Sendable {
    public let fingerprint: String  // of the bundle
    public let sinks: Int
    public let rows: [StateTensor]  // of each of those states, [any, K, sinks, D]

    public init(fingerprint: String, sinks: Int, rows: [StateTensor]) {
        (self.fingerprint, self.sinks, self.rows) = (fingerprint, sinks, rows)
    }

    /// That they take.
    public var bytes: Int { rows.reduce(0) { $0 + $1.bytes.count } }

    /// A copy of them, out of a whole state.
    init(of state: [StateTensor], _ manifest: Manifest, sinks: Int) throws {
        let rows = try manifest.pinnedStates.map { name in
            guard let tensor = state.first(where: { $0.name == name }) else {
                throw EdgesinkError(.badBundle, "no state \(name)", expected: "the manifest's")
            }
            return tensor.firstRows(sinks)
        }
        self.init(fingerprint: manifest.fingerprint, sinks: sinks, rows: rows)
    }

    /// A whole state with them in the place of its own.
    func over(_ state: [StateTensor]) -> [StateTensor] {
        state.map { tensor in
            rows.first { $0.name == tensor.name }.map(tensor.replacingFirstRows) ?? tensor
        }
    }

    /// Throws `badOption` unless they fit a stream of the bundle with so many sinks, which holds such a state.
    func check(_ manifest: Manifest, sinks: Int, like state: [StateTensor]) throws {
        let isOfBundle = fingerprint == manifest.fingerprint
        guard isOfBundle, self.sinks == sinks else {
            throw EdgesinkError(
                .badOption, "\(self.sinks) pinned rows\(isOfBundle ? "" : " of another bundle")",
                expected: "\(sinks) of this bundle", remedy: "make them with the stream that they are for")
        }
        let own = try PinnedRows(of: state, manifest, sinks: sinks)
        guard rows.map(\.kind) == own.rows.map(\.kind) else {
            throw EdgesinkError(
                .badOption, "pinned rows of another runner", expected: "those of this one", remedy: "make them with it")
        }
    }
}

extension Manifest {
    /// The states whose view has sinks.
    fileprivate var pinnedStates: [String] { states.filter { views[$0.view].sinks }.map(\.name) }

    /// Throws `badOption` unless a stream at `position` has begun with all of its pinned tokens.
    func checkPinned(_ sinks: Int, at position: Int) throws {
        guard position >= sinks else {
            throw EdgesinkError(
                .badOption, "pinned rows of a stream of \(position) tokens", expected: "\(sinks) or more",
                remedy: "feed what is to be pinned first")
        }
    }

    /// Throws `badOption` unless the ids are as many as are pinned, the model's own sink token in front.
    func checkPinned(_ ids: [Int], sinks: Int) throws {
        guard ids.count == sinks else {
            throw EdgesinkError(
                .badOption, "\(ids.count) ids to pin", expected: "\(sinks), the sinks of this stream",
                remedy: "pad or cut them, or start a stream with another number of sinks")
        }
        guard let first = ids.first, let own = prefix.first, first != own else { return }
        throw EdgesinkError(
            .badOption, "ids to pin that begin with \(first)", expected: "\(own), the model's own sink token",
            remedy: "put it in front")
    }
}

extension StateTensor {
    /// Everything but the numbers.
    fileprivate var kind: StateTensor { StateTensor(name: name, dtype: dtype, shape: shape, bytes: Data()) }

    /// The first rows of every block and head.
    func firstRows(_ count: Int) -> StateTensor {
        StateTensor(
            name: name, dtype: dtype, shape: [shape[0], shape[1], count, shape[3]], bytes: rows(resizedTo: count))
    }

    /// The same with other first rows, those of a tensor of fewer rows.
    func replacingFirstRows(_ rows: StateTensor) -> StateTensor {
        let rowBytes = shape[3] * dtype.itemBytes
        let (whole, few) = (shape[2] * rowBytes, rows.shape[2] * rowBytes)
        var out = Data(capacity: bytes.count)
        for block in 0..<(shape[0] * shape[1]) {
            let (own, new) = (bytes.startIndex + block * whole, rows.bytes.startIndex + block * few)
            out += rows.bytes[new..<(new + few)]
            out += bytes[(own + few)..<(own + whole)]
        }
        return StateTensor(name: name, dtype: dtype, shape: shape, bytes: out)
    }
}
