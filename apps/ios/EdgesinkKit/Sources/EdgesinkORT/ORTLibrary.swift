import EdgesinkCore
import Foundation

/// Finds the ONNX Runtime shared library.
public enum ORTLibrary {
    public static let variable = "EDGESINK_ONNXRUNTIME"  // the library's path

    /// The file that the environment names, else the one inside an installed Python package `onnxruntime`, found beside
    /// the `python3` of PATH.
    public static func find(_ environment: [String: String] = ProcessInfo.processInfo.environment) throws -> String {
        if let named = environment[variable], !named.isEmpty { return named }
        let folders = (environment["PATH"] ?? "").split(separator: ":").map { URL(filePath: String($0)) }
        for folder in folders where exists(folder.appending(path: "python3")) {
            if let found = inPackages(of: folder.deletingLastPathComponent()) { return found.path }
        }
        throw EdgesinkError(
            .missingLibrary, "no ONNX Runtime library", expected: "one in an installed Python onnxruntime",
            remedy: "set \(variable) to the path of libonnxruntime.so")
    }

    private static func inPackages(of prefix: URL) -> URL? {
        for python in contents(prefix.appending(path: "lib")) where python.lastPathComponent.hasPrefix("python3") {
            let capi = python.appending(path: "site-packages/onnxruntime/capi")
            let libraries = contents(capi).filter {
                $0.lastPathComponent.hasPrefix("libonnxruntime.so.")
                    || $0.lastPathComponent.hasPrefix("libonnxruntime.1")
            }
            if let newest = libraries.max(by: { $0.path < $1.path }) { return newest }
        }
        return nil
    }

    private static func exists(_ file: URL) -> Bool { FileManager.default.fileExists(atPath: file.path) }

    private static func contents(_ folder: URL) -> [URL] {
        (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)) ?? []
    }
}
