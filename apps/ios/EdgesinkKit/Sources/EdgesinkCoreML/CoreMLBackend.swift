#if canImport(CoreML)
    import CoreML
    import Dispatch
    import EdgesinkCore
    import Foundation

    /// Runs the package of a Core ML bundle: `decode` for one id, `prefill` for a padded chunk, over one state.
    ///
    /// An actor on a queue of its own: predictions over one state must follow one another, and they block.
    public actor CoreMLBackend: ModelBackend {
        private let queue = DispatchSerialQueue(label: "org.edgesink.coreml")
        private let manifest: Manifest
        private let decode: Function
        private let prefill: Function
        private let cache: MLState
        private let writesHere: Bool  // kv_write "host": the graph only reads the state

        public nonisolated var unownedExecutor: UnownedSerialExecutor { queue.asUnownedSerialExecutor() }

        init(compiled: URL, manifest: Manifest, choice: ComputeChoice) throws {
            self.manifest = manifest
            decode = try Function(GraphNames.decode, of: compiled, choice, tokens: 1)
            prefill = try Function(GraphNames.prefill, of: compiled, choice, tokens: manifest.stream.chunk)
            cache = decode.model.makeState()  // both functions declare the same state and share it
            writesHere = manifest.options["kv_write"] == KvWrite.host.rawValue
        }

        public func feed(_ ids: [Int], position: Int, ring: Ring) throws -> [Float] {
            let function = ids.count == 1 ? decode : prefill
            let output = try function.run(ids, position: ring.frame(position), sinks: ring.sinks, cache)
            if writesHere {
                let slots = (0..<ids.count).map { ring.slot(position + $0) }
                try write(rows: output, to: slots)
            }
            return try Self.floats(Self.array(output, GraphNames.logits))
        }

        public func state() throws -> [StateTensor] {
            try withState { rows, memory in
                let bytes = rows.packed(UnsafeRawBufferPointer(memory))
                return [StateTensor(name: GraphNames.kvCache, dtype: .float16, shape: rows.shape, bytes: bytes)]
            }
        }

        public func load(_ saved: [StateTensor]) throws {
            try withState { rows, memory in
                guard let tensor = saved.first, tensor.name == GraphNames.kvCache, tensor.shape == rows.shape else {
                    throw EdgesinkError(.badSession, "a session of another kind of bundle", expected: "one of Core ML")
                }
                rows.unpack(tensor.bytes, into: memory)
            }
        }

        /// Writes the rows that a "host" package hands out to their slots.
        private func write(rows output: any MLFeatureProvider, to slots: [Int]) throws {
            let new = try Self.array(output, GraphNames.newKv)
            let source = try Self.rows(new, new.strides.map(\.intValue))
            try withState { target, memory in
                new.withUnsafeBytes { bytes in
                    for (token, slot) in slots.enumerated() {
                        source.copyRow(token, of: bytes, to: slot, target, memory)
                    }
                }
            }
        }

        private func withState<Result>(
            _ body: (StridedRows, UnsafeMutableRawBufferPointer) throws -> Result
        ) throws -> Result {
            try cache.withMultiArray(for: GraphNames.kvCache) { array in
                try array.withUnsafeMutableBytes { memory, strides in
                    try body(Self.rows(array, strides), memory)
                }
            }
        }

        private static func rows(_ array: MLMultiArray, _ strides: [Int]) throws -> StridedRows {
            try StridedRows(
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
        private let position: MLMultiArray
        private let sinks: MLMultiArray
        private let length: MLMultiArray?  // of a padded chunk
        private let inputs: MLDictionaryFeatureProvider

        init(_ name: String, of compiled: URL, _ choice: ComputeChoice, tokens: Int) throws {
            model = try CompiledModel.function(name, of: compiled, choice)
            self.tokens = tokens
            ids = try MLMultiArray(shape: [1, NSNumber(value: tokens)], dataType: .int32)
            position = try MLMultiArray(shape: [1], dataType: .int32)
            sinks = try MLMultiArray(shape: [1], dataType: .int32)
            length = name == GraphNames.prefill ? try MLMultiArray(shape: [1], dataType: .int32) : nil
            var features: [String: Any] = [
                GraphNames.ids: ids, GraphNames.position: position, GraphNames.sinks: sinks,
            ]
            if let length { features[GraphNames.length] = length }
            inputs = try MLDictionaryFeatureProvider(dictionary: features)
        }

        func run(_ new: [Int], position at: Int, sinks count: Int, _ state: MLState) throws -> any MLFeatureProvider {
            for place in 0..<tokens { ids[place] = NSNumber(value: Int32(place < new.count ? new[place] : 0)) }
            position[0] = NSNumber(value: Int32(at))
            sinks[0] = NSNumber(value: Int32(count))
            length?[0] = NSNumber(value: Int32(new.count))
            return try model.prediction(from: inputs, using: state)
        }
    }
#endif
