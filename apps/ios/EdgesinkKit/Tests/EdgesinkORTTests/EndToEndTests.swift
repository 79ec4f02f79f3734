import EdgesinkCore
import EdgesinkORT
import Foundation
import Testing

/// A real bundle, where the environment names one: EDGESINK_BUNDLE (its folder) and EDGESINK_GOLDEN_TOKENS (what
/// `tests/make_golden_stream.py` wrote of it).
private let bundle = ProcessInfo.processInfo.environment["EDGESINK_BUNDLE"].map { URL(filePath: $0) }
private let golden = ProcessInfo.processInfo.environment["EDGESINK_GOLDEN_TOKENS"].map { URL(filePath: $0) }

@Suite(
    "A real bundle through ONNX Runtime",
    .enabled(if: bundle != nil && golden != nil, "EDGESINK_BUNDLE and EDGESINK_GOLDEN_TOKENS are not set"), .serialized)
struct EndToEndTests {
    /// `StreamSession.onnx` without the digests of the files: unoptimised SHA-256 of a model takes minutes.
    private static func session(_ bundle: URL, sinks: Int? = nil) throws -> StreamSession {
        let manifest = try Manifest.read(bundle)
        let backend = try ORTBackend(bundle: bundle, manifest: manifest)
        return try StreamSession(manifest: manifest, backend: backend, sinks: sinks)
    }

    @Test func givesPythonsTokens() async throws {
        let golden = try GoldenStream(file: #require(golden))
        let session = try Self.session(#require(bundle), sinks: golden.sinks)
        let agreement = try await golden.agreement(with: session)
        #expect(agreement.matched == agreement.tokens, "first miss at token \(agreement.firstMiss ?? -1)")
        #expect(agreement.tokens == golden.expected.count)
    }

    @Test func streamsTextThatItsIdsSpell() async throws {
        let bundle = try #require(bundle)
        let session = try Self.session(bundle)
        let tokenizer = try Tokenizer(bundle: bundle)
        let prompt = tokenizer.encode("The sea is")
        var (ids, text) = ([Int](), "")
        for try await token in try await session.generate(prompt, tokenizer: tokenizer, maxNewTokens: 30) {
            ids.append(token.id)
            text += token.text
        }
        #expect(!ids.isEmpty)
        #expect(tokenizer.decode(prompt + ids) == "The sea is" + text)
    }

    @Test func goesOnFromASavedSessionAsIfItHadNotStopped() async throws {
        let bundle = try #require(bundle)
        let file = FileManager.default.temporaryDirectory.appending(path: "edgesink-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: file) }
        let session = try Self.session(bundle)
        _ = try await session.feed(Array(100..<200))
        try await session.save(to: file)
        let expected = try await session.feed([300])
        let other = try Self.session(bundle, sinks: 0)
        try await other.restore(from: file)
        #expect(try await other.feed([300]) == expected)
    }
}

@Suite("Finding ONNX Runtime")
struct ORTLibraryTests {
    @Test func takesWhatTheEnvironmentNames() throws {
        #expect(try ORTLibrary.find([ORTLibrary.variable: "/somewhere/lib.so"]) == "/somewhere/lib.so")
    }

    @Test func saysWhatToDoWhereThereIsNone() {
        #expect(throws: EdgesinkError.self) { try ORTLibrary.find(["PATH": "/nowhere"]) }
    }
}
