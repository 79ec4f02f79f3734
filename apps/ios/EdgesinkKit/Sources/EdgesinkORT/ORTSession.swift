import EdgesinkCore
import Foundation

extension StreamSession {
    /// Open an ONNX bundle and start a stream: the twin of Python's `edgesink.load`.
    public static func onnx(bundle: URL, threads: Int? = nil, sinks: Int? = nil) throws -> StreamSession {
        let manifest = try Manifest.read(bundle)
        guard manifest.target == .onnx else {
            throw EdgesinkError(
                .badBundle, "\(bundle.path) is a bundle for \(manifest.target.rawValue)", expected: "one for onnx",
                remedy: "export with --target onnx")
        }
        _ = try manifest.stream.ring(sinks: sinks)
        try manifest.checkFiles(bundle)
        let backend = try ORTBackend(bundle: bundle, manifest: manifest, threads: threads)
        return try StreamSession(manifest: manifest, backend: backend, sinks: sinks)
    }
}
