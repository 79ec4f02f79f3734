import EdgesinkCore
import Foundation
import TestSupport
import Testing

@Suite("The manifest against tests/golden/manifest.json: the same facts, the same words of refusal as Python")
struct ManifestTests {
    /// `json` with another value at the end of a path of names and places; "remove" takes the field away.
    private static func replaced(_ json: JSON, _ path: ArraySlice<String>, _ value: JSON) -> JSON {
        guard let name = path.first else { return value }
        switch json {
        case .array(var items):
            if let at = Int(name) { items[at] = replaced(items[at], path.dropFirst(), value) }
            return .array(items)
        case .object(var fields):
            guard let at = fields.firstIndex(where: { $0.key == name }) else {
                return .object(fields + [(name, value)])
            }
            if value.string == "remove", path.count == 1 {
                fields.remove(at: at)
            } else {
                fields[at].value = replaced(fields[at].value, path.dropFirst(), value)
            }
            return .object(fields)
        default: return value
        }
    }

    private static func good() throws -> JSON { try Golden.manifest("good") }

    private static func manifest(_ json: JSON) throws -> Manifest { try Manifest(json: Data(json.text.utf8)) }

    @Test(arguments: ["good", "two_views"]) func readsWhatPythonWrote(name: String) throws {
        let golden = try #require(try Golden.json("manifest.json")["manifests"]?[name])
        let manifest = try Self.manifest(golden["manifest"] ?? .null)
        #expect(manifest.stateBytes == golden["state_bytes"]?.int)
        #expect(manifest.weightBytes == golden["weight_bytes"]?.int)
        #expect(manifest.fingerprint == golden["fingerprint"]?.string)
        #expect(manifest.eosIds == [0, 2])
        #expect(manifest.parity?.passed == true)
    }

    @Test func theModelsOwnSamplingIsTakenWhereThereIsOne() throws {
        let own = try #require(try Self.manifest(Self.good()).sampling)
        #expect(own.words == "temperature 0.7, top-k 20, top-p 0.8, min-p 0.05, repetition penalty 1.1")
        #expect(own.source == "generation_config.json")
        let spec = SamplingSpec(own)
        #expect([spec.temperature, spec.topP, spec.minP, spec.repetitionPenalty] == [0.7, 0.8, 0.05, 1.1])
        #expect(spec.topK == 20)
        let silent = try Self.manifest(Golden.manifest("two_views"))
        #expect(silent.sampling == nil)
        #expect(SamplingSpec(silent.sampling) == SamplingSpec())
    }

    @Test func readsTheViewsAndTheStatesOfEach() throws {
        let manifest = try Self.manifest(Golden.manifest("two_views"))
        #expect(manifest.views.map(\.capacity) == [32, 8])
        #expect(manifest.views.map(\.sinks) == [true, false])
        #expect(manifest.states.map(\.name) == ["kv_cache", "kv_cache_1"])
        #expect(manifest.states.map(\.shape) == [[4, 2, 64, 16], [6, 2, 32, 16]])
        #expect(manifest.states.map(\.view) == [0, 1])
        #expect(manifest.kvWrite == .host)
    }

    @Test func eachRingStandsWherePythonSaysThatItDoes() throws {
        let manifest = try Self.manifest(Golden.manifest("two_views"))
        let places = Golden.list(try Golden.json("manifest.json")["frames"])
        #expect(places.count > 5)
        for place in places {
            let (position, sinks) = (try #require(place["position"]?.int), try #require(place["sinks"]?.int))
            let frames = try manifest.rings(sinks: sinks).map { $0.frame(position) }
            #expect(frames == Golden.ints(place["frames"]), "\(position), \(sinks) sinks")
        }
    }

    @Test func refusesFaultsInPythonsWords() throws {
        let faults = Golden.list(try Golden.json("manifest.json")["faults"])
        #expect(faults.count > 90)
        for fault in faults {
            let path = Golden.list(fault["where"]).compactMap(\.string)
            let whole = try Golden.manifest(#require(fault["of"]?.string))
            let json = Self.replaced(whole, path[...], fault["value"] ?? .null)
            var message: String?
            do { _ = try Self.manifest(json) } catch { message = "\(error)" }
            #expect(message == fault["message"]?.string, "\(path)")
        }
    }

    @Test func readsNothingOfTheArchitecture() throws {
        let strange = try JSON.parse(#"{"layers": -1, "views": "none", "a thing to come": [[{"x": 1e400}]]}"#.utf8)
        let json = Self.replaced(try Self.good(), ["architecture"], strange)
        #expect(try Self.manifest(json) == Self.manifest(Self.good()))
    }

    @Test func refusesAModelInSeveralPackages() throws {
        let views = try Golden.manifest("two_views")
        let cut = Self.replaced(Self.replaced(views, ["states", "1", "part"], .int(1)), ["parts"], .int(2))
        let manifest = try Self.manifest(cut)
        #expect(manifest.parts == 2)
        #expect(throws: EdgesinkError.self) { try manifest.requireOnePackage() }
        try Self.manifest(Self.good()).requireOnePackage()
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
