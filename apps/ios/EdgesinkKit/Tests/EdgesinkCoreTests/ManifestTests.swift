import EdgesinkCore
import Foundation
import Testing

@Suite("The manifest against tests/golden/manifest.json: the same facts, the same words of refusal as Python")
struct ManifestTests {
    private static func replaced(_ json: JSON, _ path: ArraySlice<String>, _ value: JSON) -> JSON {
        guard let name = path.first, case .object(var fields) = json else { return value }
        let at = fields.firstIndex { $0.key == name }
        if value.string == "remove", path.count == 1 {
            if let at { fields.remove(at: at) }
        } else if let at {
            fields[at].value = replaced(fields[at].value, path.dropFirst(), value)
        } else {
            fields.append((name, value))
        }
        return .object(fields)
    }

    private static func good() throws -> JSON { try #require(try Golden.json("manifest.json")["good"]) }

    @Test func readsWhatPythonWrote() throws {
        let golden = try Golden.json("manifest.json")
        let manifest = try Manifest(json: Data(Self.good().text.utf8))
        #expect(manifest.stateBytes == golden["state_bytes"]?.int)
        #expect(manifest.weightBytes == golden["weight_bytes"]?.int)
        #expect(manifest.fingerprint == golden["fingerprint"]?.string)
        #expect(manifest.eosIds == [0, 2])
        #expect(manifest.stream.rows == 39)
        #expect(manifest.model.rope.scaling?.originalContext == 8192)
        #expect(manifest.parity?.passed == true)
    }

    @Test func refusesFaultsInPythonsWords() throws {
        let faults = Golden.list(try Golden.json("manifest.json")["faults"])
        #expect(faults.count > 20)
        for fault in faults {
            let path = Golden.list(fault["where"]).compactMap(\.string)
            let json = Self.replaced(try Self.good(), path[...], fault["value"] ?? .null)
            var message: String?
            do { _ = try Manifest(json: Data(json.text.utf8)) } catch { message = "\(error)" }
            #expect(message == fault["message"]?.string, "\(path)")
        }
    }

    @Test func refusesAModelInSeveralPackages() throws {
        let cut = Self.replaced(try Self.good(), ["options", "parts"], .string("2"))
        let manifest = try Manifest(json: Data(cut.text.utf8))
        #expect(manifest.parts == 2)
        #expect(throws: EdgesinkError.self) { try manifest.requireOnePackage() }
        try Manifest(json: Data(try Self.good().text.utf8)).requireOnePackage()
    }

    @Test func refusesTextThatIsNoManifest() throws {
        for text in ["{\"format\": 1", "", "[]", "{\"a\": \"\u{1}\"}"] {
            #expect(throws: EdgesinkError.self) { try Manifest(json: Data(text.utf8)) }
        }
        let folder = try TemporaryFolder()
        #expect(throws: EdgesinkError.self) { try Manifest.read(folder.url) }
    }

    @Test func namesTheDamagedFile() throws {
        let folder = try TemporaryFolder()
        let line = #"[{"path": "model.onnx", "bytes": 4, "sha256": "\#(SHA256Digest.of(Data("data".utf8)))"}]"#
        let json = Self.replaced(try Self.good(), ["files"], try JSON.parse(line.utf8))
        let manifest = try Manifest(json: Data(json.text.utf8))
        func words() throws -> String {
            do { try manifest.checkFiles(folder.url) } catch { return "\(error)" }
            return ""
        }
        #expect(try words().contains("is missing"))
        for (content, message) in [("dat", "has 3 bytes; expected 4"), ("atad", "altered"), ("data", "")] {
            try Data(content.utf8).write(to: folder.file("model.onnx"))
            #expect(message.isEmpty ? try words().isEmpty : try words().contains(message))
        }
    }
}
