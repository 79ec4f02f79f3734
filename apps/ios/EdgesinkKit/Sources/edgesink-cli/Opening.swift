import EdgesinkCore
import EdgesinkORT
import Foundation

#if canImport(CoreML)
    import EdgesinkCoreML
#endif

/// Opens a bundle with the backend of its target.
enum Opening {
    static func open(
        _ bundle: URL, sinks: Int? = nil, threads: Int? = nil, units: String? = nil
    ) async throws -> StreamSession {
        #if canImport(CoreML)
            if try Manifest.read(bundle).target == .coreml {
                let choice = units.map(ComputeChoice.init(rawValue:)) ?? .standard
                guard let choice else { throw UsageError(problem: "no compute units '\(units ?? "")'") }
                return try await StreamSession.coreML(bundle: bundle, units: choice, sinks: sinks)
            }
        #endif
        guard units == nil else { throw UsageError(problem: "--units is for Core ML bundles on Apple systems") }
        return try StreamSession.onnx(bundle: bundle, threads: threads, sinks: sinks)
    }
}
