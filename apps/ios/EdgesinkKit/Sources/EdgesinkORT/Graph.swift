import COnnxRuntime
import EdgesinkCore
import Foundation

/// An open graph and the memory bound to its ends. Used from one actor only.
final class Graph: @unchecked Sendable {
    private struct Buffer {
        let memory: UnsafeMutableRawBufferPointer
        let type: edgesink_ort_type
        let shape: [Int]
    }

    private let ort: OpaquePointer
    private var buffers: [String: Buffer] = [:]

    init(library: String, model: URL, threads: Int) throws {
        var error = [CChar](repeating: 0, count: Self.errorSize)
        guard let ort = edgesink_ort_open(library, model.path, Int32(threads), &error, error.count) else {
            let why = Self.text(error)
            guard FileManager.default.fileExists(atPath: library) else {
                throw EdgesinkError(
                    .missingLibrary, "ONNX Runtime cannot be loaded (\(why))",
                    remedy: "set \(ORTLibrary.variable) to the path of libonnxruntime.so")
            }
            throw EdgesinkError(
                .badBundle, "ONNX Runtime cannot load \(model.path) (\(why))",
                remedy: "update onnxruntime, or export the bundle again")
        }
        self.ort = ort
    }

    deinit {
        edgesink_ort_close(ort)
        for buffer in buffers.values { buffer.memory.deallocate() }
    }

    var version: String { String(cString: edgesink_ort_version(ort)) }

    /// Allocates zeroed memory of that shape for an input or an output and binds it.
    func hold(_ name: String, _ type: edgesink_ort_type, _ shape: [Int], isOutput: Bool = false) throws {
        let bytes = shape.reduce(type == EDGESINK_ORT_FLOAT ? 4 : 8, *)
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: 0)
        let old = buffers.updateValue(Buffer(memory: memory, type: type, shape: shape), forKey: name)
        try bind(name, to: name, isOutput: isOutput)
        old?.memory.deallocate()
    }

    /// Binds an output to the memory of something held already.
    func bindOutput(_ name: String, to held: String) throws { try bind(name, to: held, isOutput: true) }

    func run() throws {
        var error = [CChar](repeating: 0, count: Self.errorSize)
        guard edgesink_ort_run(ort, &error, error.count) == 0 else { throw Self.refused("run", error) }
    }

    func shape(_ name: String) -> [Int] { buffers[name]?.shape ?? [] }

    func write<Value: BitwiseCopyable>(_ values: [Value], to name: String) {
        values.withUnsafeBytes { source in buffers[name]?.memory.copyMemory(from: source) }
    }

    func floats(_ name: String) -> [Float] { buffers[name].map { Array($0.memory.bindMemory(to: Float.self)) } ?? [] }

    func bytes(_ name: String) -> Data { buffers[name].map { Data($0.memory) } ?? Data() }

    private func bind(_ name: String, to held: String, isOutput: Bool) throws {
        guard let buffer = buffers[held] else { preconditionFailure("\(held) is not held") }
        var error = [CChar](repeating: 0, count: Self.errorSize)
        let result = edgesink_ort_bind(
            ort, name, isOutput ? 1 : 0, buffer.type, buffer.memory.baseAddress, buffer.memory.count,
            buffer.shape.map(Int64.init), buffer.shape.count, &error, error.count)
        guard result == 0 else { throw Self.refused("bind '\(name)'", error) }
    }

    private static let errorSize = 1024

    private static func text(_ error: [CChar]) -> String {
        String(decoding: error.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private static func refused(_ what: String, _ error: [CChar]) -> EdgesinkError {
        EdgesinkError(
            .badBundle, "ONNX Runtime does not \(what) (\(text(error)))", remedy: "export the bundle again")
    }
}
