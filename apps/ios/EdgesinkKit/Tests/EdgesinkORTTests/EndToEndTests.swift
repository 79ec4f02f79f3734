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

    @Test(arguments: [2, 4, 8]) func repinnedRowsAreBitForBitThoseOfAStreamThatBeganSo(sinks: Int) async throws {
        let bundle = try #require(bundle)
        let manifest = try Manifest.read(bundle)
        let others = Array((manifest.prefix + Array(400..<408)).prefix(sinks))
        let backend = try ORTBackend(bundle: bundle, manifest: manifest)
        let session = try StreamSession(manifest: manifest, backend: backend, sinks: sinks)
        _ = try await session.feed(Array(100..<300))
        let usual = try await session.feed([300])
        try await session.rewind(1)
        let before = await backend.state()
        let old = try await session.repin(others)
        let new = try await session.pinnedRows()
        #expect(new.rows.count == manifest.states.filter { manifest.views[$0.view].sinks }.count)

        let begun = try Self.session(bundle, sinks: sinks)
        _ = try await begun.feed(Array(others.dropFirst(manifest.prefix.count)))
        #expect(try await begun.pinnedRows() == new)
        #expect(new != old)

        let moved = zip(try await session.feed([300]), usual).map { abs($0 - $1) }.max() ?? 0
        #expect(moved > 0.1, "the model reads its new first tokens")
        try await session.rewind(1)
        try await session.putPinnedRows(old)
        #expect(try await session.feed([300]) == usual)
        #expect(await backend.state() == before)
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
