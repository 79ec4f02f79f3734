import EdgesinkCore
import Foundation

/// The golden files that the Python tests read or write: `tests/golden` at the top of the repository.
package enum Golden {
    package static let folder = URL(filePath: #filePath)
        .deletingLastPathComponent().appending(path: "../../../../../tests/golden").standardizedFileURL

    package static func json(_ name: String) throws -> JSON {
        try JSON.parse(Data(contentsOf: folder.appending(path: name)))
    }

    /// One of the manifests in `tests/golden/manifest.json`.
    package static func manifest(_ name: String) throws -> JSON {
        try json("manifest.json")["manifests"]?[name]?["manifest"] ?? .null
    }

    /// The fields of a manifest of Core ML: of its first rings only, and with or without the layers of their states.
    package static func coreML(views: Int, namesLayers: Bool) throws -> [(key: String, value: JSON)] {
        let states = try list(manifest("two_views")["states"]).prefix(views).map { state in
            JSON.object((state.object ?? []).filter { namesLayers || $0.key != "layers" })
        }
        return try (manifest("two_views").object ?? []).map { key, value in
            switch key {
            case "views": (key, .array(Array(list(value).prefix(views))))
            case "states": (key, .array(states))
            default: (key, value)
            }
        }
    }

    package static func list(_ json: JSON?) -> [JSON] { json?.array ?? [] }

    package static func ints(_ json: JSON?) -> [Int] { list(json).compactMap(\.int) }
}

/// A folder of its own, gone with the test.
package struct TemporaryFolder: ~Copyable {
    package let url: URL

    package init() throws {
        url = FileManager.default.temporaryDirectory.appending(path: "edgesink-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(at: url) }

    package func file(_ name: String) -> URL { url.appending(path: name) }
}
