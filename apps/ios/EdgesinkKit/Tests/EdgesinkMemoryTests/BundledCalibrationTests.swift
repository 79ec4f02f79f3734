import EdgesinkCore
import Foundation
import TestSupport
import Testing

@testable import EdgesinkMemory

@Suite("A calibration that came with its bundle")
struct BundledCalibrationTests {
    /// A manifest of Core ML, which names a calibration or not; by itself of one whose layers are all in one state.
    private static func manifest(named: Bool, views: Int = 1, namesLayers: Bool = false) throws -> Manifest {
        let file: [(key: String, value: JSON)] = [
            ("path", .string(BundleFiles.calibration)), ("bytes", .int(7)), ("sha256", .string("0")),
        ]
        let fields = try Golden.coreML(views: views, namesLayers: namesLayers).map { key, value in
            key == "files" && named ? (key, .array(Golden.list(value) + [.object(file)])) : (key, value)
        }
        return try Manifest(json: Data(JSON.object(fields).text.utf8))
    }

    /// Writes one of a bundle into the folder of another.
    private static func write(to folder: URL, of manifest: Manifest, layer: Int = 1, name: String? = nil) throws {
        let width = manifest.states[0].shape[1] * manifest.states[0].shape[3]
        func tensor(_ name: String, _ shape: [Int]) -> StateTensor {
            let numbers = [Float](repeating: 0.5, count: shape.reduce(1, *))
            return StateTensor(name: name, dtype: .float32, shape: shape, bytes: numbers.withUnsafeBytes { Data($0) })
        }
        let tensors = [
            tensor("mean", [width]), tensor("scale", [width]), tensor("gate_mean", [width]),
            tensor("gate", [2, width]), tensor("gate_offset", [2]),
        ]
        let numbers =
            "\"layer\": \(layer), \"gate_layer\": 0, \"asks\": 0.5, \"is_question\": 0.5, \"least\": 0.5, "
            + "\"found\": 0.5, \"passed\": 0.5"
        let header = [
            ("edgesink_memory", "1"), ("name", name ?? "\(manifest.fingerprint.prefix(16)):00ff"),
            ("numbers", "{\(numbers)}"),
        ]
        try SafeTensors.encoded(tensors, header).write(to: folder.appending(path: BundleFiles.calibration))
    }

    @Test func isReadOfACoreMLBundleAndLeavesItsFingerprint() throws {
        let folder = try TemporaryFolder()
        let manifest = try Self.manifest(named: true)
        #expect(manifest.target == .coreml)
        #expect(try manifest.fingerprint == Self.manifest(named: false).fingerprint)
        try Self.write(to: folder.url, of: manifest)
        let made = try #require(try Calibration.ofBundle(folder.url, manifest))
        #expect(made.name == "\(manifest.fingerprint.prefix(16)):00ff")
        #expect(made.numbers.layer == 1)
        #expect(made.mean.count == manifest.states[0].shape[1] * manifest.states[0].shape[3])
    }

    @Test func isNotOpenedWhereTheManifestDoesNotNameIt() throws {
        let folder = try TemporaryFolder()
        let manifest = try Self.manifest(named: false)
        #expect(try Calibration.ofBundle(folder.url, manifest) == nil)
        try Data("nobody vouches for it".utf8).write(to: folder.file(BundleFiles.calibration))
        #expect(try Calibration.ofBundle(folder.url, manifest) == nil)
    }

    @Test func isRefusedByNameWhereItCannotBeUsed() throws {
        let folder = try TemporaryFolder()
        let manifest = try Self.manifest(named: true)
        func refusal(of manifest: Manifest, _ make: (URL) throws -> Void) rethrows -> String {
            try make(folder.url)
            do { return "\(try Calibration.ofBundle(folder.url, manifest)?.name ?? "none")" } catch {
                return "\(error)"
            }
        }
        func written(_ manifest: Manifest, layer: Int = 1, name: String? = nil) throws -> String {
            try refusal(of: manifest) { try Self.write(to: $0, of: manifest, layer: layer, name: name) }
        }
        #expect(refusal(of: manifest) { _ in }.contains("no calibration at"))
        let damaged = try refusal(of: manifest) { folder in
            try Data("damaged".utf8).write(to: folder.appending(path: BundleFiles.calibration))
        }
        #expect(damaged.contains("cannot be used"))
        #expect(try written(manifest, name: "another:00ff").contains("it is of another bundle: 'another:00ff'"))
        #expect(try written(manifest, layer: 2).contains("layer 2 is no layer of the model"))
        let older = try Self.manifest(named: true, views: 2)
        #expect(try written(older).contains("layer 1 is no layer of the model"), "which view has it is not said")
        let twoViews = try Self.manifest(named: true, views: 2, namesLayers: true)
        #expect(try written(twoViews, layer: 4) == "\(twoViews.fingerprint.prefix(16)):00ff")
        #expect(try written(twoViews, layer: 5).contains("layer 5 is no layer of the model"))
    }
}
