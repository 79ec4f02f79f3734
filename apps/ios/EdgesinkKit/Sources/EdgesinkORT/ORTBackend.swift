import COnnxRuntime
import EdgesinkCore
import Foundation

/// Runs the graph of an ONNX bundle on the CPU: the twin of `runtime/backends.py`.
///
/// The state's inputs and outputs are bound to the same memory, so a step copies nothing but its ids and its logits.
public actor ORTBackend: ModelBackend {
    private let graph: Graph
    private let manifest: Manifest

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
        for state in manifest.states {
            try graph.hold(state.name, EDGESINK_ORT_FLOAT, state.shape)
            try graph.bindOutput(GraphNames.updated(state.name), to: state.name)
        }
        try graph.hold(GraphNames.ids, EDGESINK_ORT_INT64, [1, 1])
        try graph.hold(GraphNames.position, EDGESINK_ORT_INT64, [1])
        try graph.hold(GraphNames.sinks, EDGESINK_ORT_INT64, [1])
        try graph.hold(GraphNames.logits, EDGESINK_ORT_FLOAT, [1, manifest.vocab], isOutput: true)
    }

    /// Version of ONNX Runtime.
    public nonisolated var version: String { graph.version }

    public func feed(_ ids: [Int], position: Int, sinks: Int) throws -> [Float] {
        if graph.shape(GraphNames.ids) != [1, ids.count] {
            try graph.hold(GraphNames.ids, EDGESINK_ORT_INT64, [1, ids.count])
        }
        graph.write(ids.map(Int64.init), to: GraphNames.ids)
        graph.write([Int64(position)], to: GraphNames.position)
        graph.write([Int64(sinks)], to: GraphNames.sinks)
        try graph.run()
        return graph.floats(GraphNames.logits)
    }

    public func state() -> [StateTensor] {
        manifest.states.map {
            StateTensor(name: $0.name, dtype: .float32, shape: $0.shape, bytes: graph.bytes($0.name))
        }
    }

    public func state(_ name: String) -> StateTensor? {
        manifest.states.first { $0.name == name }.map {
            StateTensor(name: $0.name, dtype: .float32, shape: $0.shape, bytes: graph.bytes($0.name))
        }
    }

    public func load(_ state: [StateTensor]) throws {
        for tensor in state {
            guard manifest.states.contains(where: { $0.name == tensor.name && $0.shape == tensor.shape }) else {
                throw EdgesinkError(.badSession, "a state '\(tensor.name)' \(tensor.shape)", expected: "the bundle's")
            }
            graph.write(Array(tensor.bytes), to: tensor.name)
        }
    }
}
