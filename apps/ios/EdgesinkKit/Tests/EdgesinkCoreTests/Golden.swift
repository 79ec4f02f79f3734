import EdgesinkCore
import Foundation

/// The golden files that the Python tests read or write: `tests/golden` at the top of the repository.
enum Golden {
    static let folder = URL(filePath: #filePath)
        .deletingLastPathComponent().appending(path: "../../../../../tests/golden").standardizedFileURL

    static func json(_ name: String) throws -> JSON { try JSON.parse(Data(contentsOf: folder.appending(path: name))) }

    /// One of the manifests in `tests/golden/manifest.json`.
    static func manifest(_ name: String) throws -> JSON {
        try json("manifest.json")["manifests"]?[name]?["manifest"] ?? .null
    }

    static func list(_ json: JSON?) -> [JSON] { json?.array ?? [] }

    static func ints(_ json: JSON?) -> [Int] { list(json).compactMap(\.int) }
}

/// A folder of its own, gone with the test.
struct TemporaryFolder: ~Copyable {
    let url: URL

    init() throws {
        url = FileManager.default.temporaryDirectory.appending(path: "edgesink-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(at: url) }

    func file(_ name: String) -> URL { url.appending(path: name) }
}
