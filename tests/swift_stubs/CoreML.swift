// Our own declarations of the Apple API that EdgesinkCoreML and the demo's model use, as Apple documents it: enough to
// type-check them where there is no Mac. It says nothing of what the real framework accepts.
import Foundation

public enum MLComputeUnits: Sendable { case cpuOnly, cpuAndGPU, all, cpuAndNeuralEngine }

public class MLModelConfiguration {
    public init() {}
    public var computeUnits = MLComputeUnits.all
    public var functionName: String?
}

public enum MLMultiArrayDataType { case int32, float16, float32, double }

public class MLMultiArray {
    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {
        (self.shape, self.dataType, strides) = (shape, dataType, [])
    }
    public let shape: [NSNumber]
    public let strides: [NSNumber]
    public let dataType: MLMultiArrayDataType
    public subscript(index: Int) -> NSNumber {
        get { 0 }
        set {}
    }
    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try body(.init(start: nil, count: 0))
    }
    public func withUnsafeMutableBytes<R>(_ body: (UnsafeMutableRawBufferPointer, [Int]) throws -> R) rethrows -> R {
        try body(.init(start: nil, count: 0), [])
    }
}

public class MLFeatureValue { public var multiArrayValue: MLMultiArray? }

public protocol MLFeatureProvider: AnyObject { func featureValue(for name: String) -> MLFeatureValue? }

public class MLDictionaryFeatureProvider: MLFeatureProvider {
    public init(dictionary: [String: Any]) throws {}
    public func featureValue(for name: String) -> MLFeatureValue? { nil }
}

public class MLState {
    public func withMultiArray<R>(for name: String, _ body: (MLMultiArray) throws -> R) rethrows -> R { stub() }
}

public class MLPredictionOptions { public init() {} }

public class MLModel {
    public init(contentsOf url: URL, configuration: MLModelConfiguration) throws {}
    public static func compileModel(at url: URL) async throws -> URL { url }
    public func makeState() -> MLState { MLState() }
    public func prediction(
        from input: any MLFeatureProvider, using state: MLState
    ) throws -> any MLFeatureProvider { stub() }
    public func prediction(
        from input: any MLFeatureProvider, using state: MLState, options: MLPredictionOptions = .init()
    ) async throws -> any MLFeatureProvider { stub() }
}

// Of Dispatch and Foundation, missing on Linux.

public final class DispatchSerialQueue: SerialExecutor {
    public init(label: String) {}
    public func enqueue(_ job: consuming ExecutorJob) {}
    public func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }
}

extension URL {
    public func startAccessingSecurityScopedResource() -> Bool { false }
    public func stopAccessingSecurityScopedResource() {}
}

private func stub<R>() -> R { preconditionFailure("a declaration, never run") }
