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

    /// A copy of those that a backend holds.
    init(of backend: any ModelBackend, _ manifest: Manifest, sinks: Int) async throws {
        var rows: [StateTensor] = []
        for name in manifest.pinnedStates {
            guard let tensor = try await backend.state(name) else { throw Self.missing(name) }
            rows.append(tensor.firstRows(sinks))
        }
        self.init(fingerprint: manifest.fingerprint, sinks: sinks, rows: rows)
    }

    /// Write them over those of a whole state; `badOption` unless they are of the bundle, of a stream with so many sinks,
    /// and of such a state.
    func put(into state: inout [StateTensor], _ manifest: Manifest, sinks: Int) throws {
        let isOfBundle = fingerprint == manifest.fingerprint
        guard isOfBundle, self.sinks == sinks else {
            throw EdgesinkError(
                .badOption, "\(self.sinks) pinned rows\(isOfBundle ? "" : " of another bundle")",
                expected: "\(sinks) of this bundle", remedy: "make them with the stream that they are for")
        }
        let places = try manifest.pinnedStates.map { name in
            guard let place = state.firstIndex(where: { $0.name == name }) else { throw Self.missing(name) }
            return place
        }
        guard rows.count == places.count, zip(places, rows).allSatisfy({ state[$0].hasRoom(for: $1, sinks) }) else {
            throw EdgesinkError(
                .badOption, "pinned rows of another runner", expected: "those of this one", remedy: "make them with it")
        }
        for (place, rows) in zip(places, rows) { state[place].replaceFirstRows(with: rows) }
    }

    private static func missing(_ name: String) -> EdgesinkError {
        EdgesinkError(.badBundle, "no state \(name)", expected: "the manifest's")
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
    /// The first rows of every block and head.
    func firstRows(_ count: Int) -> StateTensor {
        StateTensor(
            name: name, dtype: dtype, shape: [shape[0], shape[1], count, shape[3]], bytes: rows(resizedTo: count))
    }

    /// Whether the other is that many rows of such a tensor.
    fileprivate func hasRoom(for rows: StateTensor, _ count: Int) -> Bool {
        let expected = [shape[0], shape[1], count, shape[3]]
        return rows.name == name && rows.dtype == dtype && rows.shape == expected
            && rows.bytes.count == expected.reduce(dtype.itemBytes, *)
    }

    /// Overwrites the first rows with those of a tensor of fewer rows.
    mutating func replaceFirstRows(with rows: StateTensor) {
        let rowBytes = shape[3] * dtype.itemBytes
        let (whole, few) = (shape[2] * rowBytes, rows.shape[2] * rowBytes)
        for block in 0..<(shape[0] * shape[1]) {
            let (own, new) = (bytes.startIndex + block * whole, rows.bytes.startIndex + block * few)
            bytes.replaceSubrange(own..<(own + few), with: rows.bytes[new..<(new + few)])
        }
    }
}
