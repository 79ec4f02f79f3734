/// A buffer of keys or values that a graph reads and writes in place. The twin of `State` in `edgesink/manifest.py`.
public struct StateSpec: Equatable, Sendable {
    public let name: String
    public let shape: [Int]  // [1, K, rows, D]; of Core ML [2 L, K, rows, D], keys and values of its layers in turn
    public let dtype: StateDtype
    public let view: Int  // whose ring its rows are: a place in `Manifest.views`
    public let part: Int  // of a model that is cut: the package that has it
    public let bytes: Int  // that it takes
}

public enum StateDtype: String, Sendable {
    case float32, float16

    public var itemBytes: Int { self == .float32 ? 4 : 2 }
}

extension Manifest {
    /// Where the values of a layer are: a state, and which block of it.
    public func values(ofLayer layer: Int) throws -> (state: StateSpec, block: Int) {
        if let state = states.first(where: { $0.name == GraphNames.value(layer) }) { return (state, 0) }
        // Core ML's state has keys of its layer i at 2 i, values behind; which layers those of several views are is not
        // in the manifest.
        if target == .coreml, views.count == 1, parts == 1, let state = states.first, layer >= 0,
            2 * layer + 1 < state.shape[0]
        {
            return (state, 2 * layer + 1)
        }
        throw EdgesinkError(.badOption, "the values of layer \(layer)", expected: "a layer of the model")
    }
}

// MARK: - Reading

extension StateSpec {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(json, place, ["name", "shape", "dtype", "view", "part"])
        name = try fields.string("name")
        shape = try fields.list("shape", StrictFields.int)
        dtype = try fields.choice("dtype")
        view = try fields.int("view")
        part = try fields.int("part")
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
