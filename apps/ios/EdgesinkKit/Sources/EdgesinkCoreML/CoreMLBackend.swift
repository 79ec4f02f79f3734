#if canImport(CoreML)
    import CoreML
    import Dispatch
    import EdgesinkCore
    import Foundation

    /// Runs the package of a Core ML bundle: `decode` for one id, `prefill` for a padded chunk, over the same states.
    ///
    /// An actor on a queue of its own: predictions over one state must follow one another, and they block.
    public actor CoreMLBackend: ModelBackend {
        private let queue = DispatchSerialQueue(label: "org.edgesink.coreml")
        private let manifest: Manifest
        private let decode: Function
        private let prefill: Function
        private let cache: MLState  // one tensor for each of the manifest's states

        public nonisolated var unownedExecutor: UnownedSerialExecutor { queue.asUnownedSerialExecutor() }

        init(compiled: URL, manifest: Manifest, choice: ComputeChoice) throws {
            self.manifest = manifest
            guard manifest.stateDtype == .float16 else {
                throw EdgesinkError(
                    .badBundle, "a state of \(manifest.stateDtype.rawValue)", expected: "float16",
                    remedy: "export the bundle again")
            }
            let (chunk, views) = (manifest.stream.chunk, manifest.views.count)
            decode = try Function(GraphNames.decode, of: compiled, choice, tokens: 1, views: views)
            prefill = try Function(GraphNames.prefill, of: compiled, choice, tokens: chunk, views: views)
            cache = decode.model.makeState()  // both functions declare the same states and share them
        }

        public func feed(_ ids: [Int], position: Int, sinks: Int) throws -> [Float] {
            let function = ids.count == 1 ? decode : prefill
            let rings = try manifest.rings(sinks: sinks)
            let output = try function.run(ids, frames: rings.map { $0.frame(position) }, sinks: sinks, cache)
            if manifest.kvWrite == .host {  // the graph only reads the states
                for state in manifest.states {
                    let slots = (0..<ids.count).map { rings[state.view].slot(position + $0) }
                    try write(rows: output, to: slots, of: state)
                }
            }
            return try Self.floats(Self.array(output, GraphNames.logits))
        }

        public func state() throws -> [StateTensor] { try manifest.states.map(copy) }

        public func state(_ name: String) throws -> StateTensor? {
            try manifest.states.first { $0.name == name }.map(copy)
        }

        private func copy(_ state: StateSpec) throws -> StateTensor {
            try withState(state) { rows, memory in
                let bytes = rows.packed(UnsafeRawBufferPointer(memory))
                return StateTensor(name: state.name, dtype: .float16, shape: rows.shape, bytes: bytes)
            }
        }

        public func load(_ saved: [StateTensor]) throws {
            let tensors = try manifest.states.map { state in
                guard let tensor = saved.first(where: { $0.name == state.name && $0.shape == state.shape }) else {
                    throw EdgesinkError(.badSession, "a session without \(state.name)", expected: "one of this bundle")
                }
                return (state, tensor)
            }
            for (state, tensor) in tensors {
                try withState(state) { rows, memory in rows.unpack(tensor.bytes, into: memory) }
            }
        }

        /// Writes the rows that a "host" package hands out for a state to their slots.
        private func write(rows output: any MLFeatureProvider, to slots: [Int], of state: StateSpec) throws {
            let new = try Self.array(output, GraphNames.newKv(state.view))
            let source = try Self.rows(new, new.strides.map(\.intValue))
            try source.require(state, rows: slots.count == 1 ? 1 : manifest.stream.chunk)
            try withState(state) { target, memory in
                new.withUnsafeBytes { bytes in
                    for (token, slot) in slots.enumerated() {
                        source.copyRow(token, of: bytes, to: slot, target, memory)
                    }
                }
            }
        }

        private func withState<Result>(
            _ state: StateSpec, _ body: (StridedRows, UnsafeMutableRawBufferPointer) throws -> Result
        ) throws -> Result {
            try cache.withMultiArray(for: state.name) { array in
                try array.withUnsafeMutableBytes { memory, strides in
                    let rows = try Self.rows(array, strides)
                    try rows.require(state)
                    return try body(rows, memory)
                }
            }
        }

        private static func rows(_ array: MLMultiArray, _ strides: [Int]) throws -> StridedRows {
            guard array.dataType == .float16 else {
                throw EdgesinkError(
                    .badBundle, "keys and values of another type", expected: "float16", remedy: "export it again")
            }
            return try StridedRows(
                shape: array.shape.map(\.intValue), strides: strides, itemBytes: StateDtype.float16.itemBytes)
        }

        private static func array(_ output: any MLFeatureProvider, _ name: String) throws -> MLMultiArray {
            guard let array = output.featureValue(for: name)?.multiArrayValue else {
                throw EdgesinkError(.badBundle, "the package has no output '\(name)'", remedy: "export it again")
            }
            return array
        }

        /// Logits float16 [1, V] as floats.
        private static func floats(_ array: MLMultiArray) throws -> [Float] {
            guard array.dataType == .float16, let count = array.shape.last?.intValue,
                let step = array.strides.last?.intValue
            else {
                throw EdgesinkError(
                    .badBundle, "logits of another type", expected: "float16 [1, V]", remedy: "export again")
            }
            return array.withUnsafeBytes { bytes in
                (0..<count).map { HalfFloat.float(bytes.loadUnaligned(fromByteOffset: 2 * step * $0, as: UInt16.self)) }
            }
        }
    }

    /// One function of the package with its inputs, made once and written before each run.
    private final class Function {
        let model: MLModel
        private let tokens: Int
        private let ids: MLMultiArray
        private let position: MLMultiArray  // [views], the frame of each ring
        private let sinks: MLMultiArray
        private let length: MLMultiArray?  // of a padded chunk
        private let inputs: MLDictionaryFeatureProvider

        init(_ name: String, of compiled: URL, _ choice: ComputeChoice, tokens: Int, views: Int) throws {
            model = try CompiledModel.function(name, of: compiled, choice)
            self.tokens = tokens
            ids = try MLMultiArray(shape: [1, NSNumber(value: tokens)], dataType: .int32)
            position = try MLMultiArray(shape: [NSNumber(value: views)], dataType: .int32)
            sinks = try MLMultiArray(shape: [1], dataType: .int32)
            length = name == GraphNames.prefill ? try MLMultiArray(shape: [1], dataType: .int32) : nil
            var features: [String: Any] = [
                GraphNames.ids: ids, GraphNames.position: position, GraphNames.sinks: sinks,
            ]
            if let length { features[GraphNames.length] = length }
            inputs = try MLDictionaryFeatureProvider(dictionary: features)
        }

        func run(_ new: [Int], frames: [Int], sinks count: Int, _ state: MLState) throws -> any MLFeatureProvider {
            for place in 0..<tokens { ids[place] = NSNumber(value: Int32(place < new.count ? new[place] : 0)) }
            for (view, frame) in frames.enumerated() { position[view] = NSNumber(value: Int32(frame)) }
            sinks[0] = NSNumber(value: Int32(count))
            length?[0] = NSNumber(value: Int32(new.count))
            return try model.prediction(from: inputs, using: state)
        }
    }
#endif
