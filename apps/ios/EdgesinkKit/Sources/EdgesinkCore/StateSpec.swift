/// A buffer of keys or values that a graph reads and writes in place. The twin of `State` in `edgesink/manifest.py`.
public struct StateSpec: Equatable, Sendable {
    public let name: String
    public let shape: [Int]  // [1, K, rows, D]; of Core ML [2 L, K, rows, D], keys and values of its layers in turn
    public let dtype: StateDtype
    public let view: Int  // whose ring its rows are: a place in `Manifest.views`
    public let part: Int  // of a model that is cut: the package that has it
    public let layers: [Int]?  // of Core ML, where there are several states: those that it has, in turn
    public let bytes: Int  // that it takes
}

public enum StateDtype: String, Sendable {
    case float32, float16

    public var itemBytes: Int { self == .float32 ? 4 : 2 }
}

extension Manifest {
    /// Where the values of a layer are: a state, and which block of it. A Core ML state has the keys of its first layer,
    /// then that layer's values, and so on; of one that does not name its layers they are the model's, if it is the only
    /// one.
    public func values(ofLayer layer: Int) throws -> (state: StateSpec, block: Int) {
        for state in states {
            if state.name == GraphNames.value(layer) { return (state, 0) }
            if let place = state.layers?.firstIndex(of: layer) { return (state, 2 * place + 1) }
        }
        if target == .coreml, states.count == 1, let state = states.first, state.layers == nil,
            (0..<state.shape[0] / 2).contains(layer)
        {
            return (state, 2 * layer + 1)
        }
        throw EdgesinkError(.badOption, "the values of layer \(layer)", expected: "a layer of the model")
    }
}

// MARK: - Reading

extension StateSpec {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(json, place, ["name", "shape", "dtype", "view", "part"], mayLack: ["layers"])
        name = try fields.string("name")
        shape = try fields.list("shape", StrictFields.int)
        dtype = try fields.choice("dtype")
        view = try fields.int("view")
        part = try fields.int("part")
        layers = try fields.optional("layers") { try fields.list($0, StrictFields.int) }
        guard let bytes = Self.bytes(shape, dtype) else {
            throw EdgesinkError(
                .badBundle, "state \(name) has shape \(shape)", expected: "four sizes that fit a machine",
                remedy: Manifest.again)
        }
        self.bytes = bytes
    }

    /// nil where the sizes are none of a buffer.
    private static func bytes(_ shape: [Int], _ dtype: StateDtype) -> Int? {
        guard shape.count == 4, shape.allSatisfy({ (1...largestSize).contains($0) }) else { return nil }
        var bytes = dtype.itemBytes
        for size in shape {  // each below 2^32, and so is no product beyond Int
            guard bytes <= Manifest.largestBytes / size else { return nil }
            bytes *= size
        }
        return bytes
    }
}
