import EdgesinkCore
import EdgesinkMemory
import Foundation

/// Bundles in the app's Documents folder, which Files and a cable can reach.
enum BundleFolder {
    static var documents: URL { FileManager.default.urls(for: .documentDirectory, in: .userDomainMask)[0] }

    static func list() -> [URL] {
        let folders = try? FileManager.default.contentsOfDirectory(
            at: documents, includingPropertiesForKeys: nil)
        return (folders ?? []).filter { folder in
            FileManager.default.fileExists(atPath: folder.appending(path: Manifest.fileName).path)
        }.sorted { $0.path < $1.path }
    }

    /// Copies a folder that Files handed over; what is not a bundle is refused before anything is copied.
    static func add(_ source: URL) throws -> URL {
        let isScoped = source.startAccessingSecurityScopedResource()
        defer { if isScoped { source.stopAccessingSecurityScopedResource() } }
        _ = try Manifest.read(source)
        let files = FileManager.default
        let place = documents.appending(path: source.lastPathComponent)
        let aside = documents.appending(path: ".\(source.lastPathComponent).new")
        try? files.removeItem(at: aside)
        defer { try? files.removeItem(at: aside) }
        try files.copyItem(at: source, to: aside)
        try? files.removeItem(at: place)
        try files.moveItem(at: aside, to: place)
        return place
    }

    /// Where a memory of conversations with a bundle is kept; no backup takes it elsewhere.
    static func memory(of bundle: URL, _ calibration: Calibration?) throws -> Memory {
        var file = documents.appending(path: "\(bundle.lastPathComponent).memory")
        let memory = try Memory(file, calibration: calibration)
        var values = URLResourceValues()
        values.isExcludedFromBackup = true
        try? file.setResourceValues(values)
        return memory
    }

    /// Where the stream of a bundle is kept while the app is away.
    static func session(of bundle: URL) -> URL {
        documents.appending(path: "\(bundle.lastPathComponent).session")
    }
}
