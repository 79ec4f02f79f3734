import COnnxRuntime
import EdgesinkCore
import Foundation

/// Runs the graph of an ONNX bundle on the CPU: the twin of `runtime/backends.py`.
///
/// The state's inputs and outputs are bound to the same memory, so a step copies nothing but its ids and its logits.
public actor ORTBackend: ModelBackend {
    private let graph: Graph
    private let manifest: Manifest
    private var names: [String] = []  // of the state, as bound

    /// `threads` nil lets ONNX Runtime take every core.
    public init(bundle: URL, manifest: Manifest, threads: Int? = nil, library: String? = nil) throws {
        self.manifest = manifest
        guard manifest.stateDtype == .float32 else {
            throw EdgesinkError(
                .badBundle, "a state of \(manifest.stateDtype.rawValue)", expected: "float32",
                remedy: "run this bundle with the Python runtime")
        }
        graph = try Graph(
            library: try library ?? ORTLibrary.find(), model: bundle.appending(path: BundleFiles.onnxGraph),
            threads: threads ?? 0)
        let model = manifest.model
        let shape = [1, model.kvHeads, manifest.stateRows, model.headDim]
        for layer in 0..<model.layers {
            for name in [GraphNames.key(layer), GraphNames.value(layer)] {
                try graph.hold(name, EDGESINK_ORT_FLOAT, shape)
                try graph.bindOutput(GraphNames.updated(name), to: name)
                names.append(name)
            }
        }
        try graph.hold(GraphNames.ids, EDGESINK_ORT_INT64, [1, 1])
        try graph.hold(GraphNames.position, EDGESINK_ORT_INT64, [1])
        try graph.hold(GraphNames.sinks, EDGESINK_ORT_INT64, [1])
        try graph.hold(GraphNames.logits, EDGESINK_ORT_FLOAT, [1, model.vocab], isOutput: true)
    }

    /// Version of ONNX Runtime.
    public nonisolated var version: String { graph.version }

    public func feed(_ ids: [Int], position: Int, ring: Ring) throws -> [Float] {
        if graph.shape(GraphNames.ids) != [1, ids.count] {
            try graph.hold(GraphNames.ids, EDGESINK_ORT_INT64, [1, ids.count])
        }
        graph.write(ids.map(Int64.init), to: GraphNames.ids)
        graph.write([Int64(position)], to: GraphNames.position)
        graph.write([Int64(ring.sinks)], to: GraphNames.sinks)
        try graph.run()
        return graph.floats(GraphNames.logits)
    }

    public func state() -> [StateTensor] {
        names.map { StateTensor(name: $0, dtype: .float32, shape: graph.shape($0), bytes: graph.bytes($0)) }
    }

    public func load(_ state: [StateTensor]) throws {
        for tensor in state {
            guard names.contains(tensor.name), graph.shape(tensor.name) == tensor.shape else {
                throw EdgesinkError(.badSession, "a state '\(tensor.name)' \(tensor.shape)", expected: "the bundle's")
            }
            graph.write(Array(tensor.bytes), to: tensor.name)
        }
    }
}
