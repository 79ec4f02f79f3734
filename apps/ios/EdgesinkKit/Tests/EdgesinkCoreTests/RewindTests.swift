import EdgesinkCore
import Foundation
import TestSupport
import Testing

@Suite("Going back in a stream, and looking at its values")
struct RewindTests {
    private func session(sinks: Int = 4, sinkToken: Int? = nil) throws -> StreamSession {
        let manifest = try toyManifest(sinkToken: sinkToken)
        return try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest), sinks: sinks)
    }

    @Test(arguments: [0, 4, 16], [3, 30, 41, 200])
    func whatWasTakenBackWasNeverFed(sinks: Int, tokens: Int) async throws {
        let session = try session(sinks: sinks)
        let ring = await session.status.ring
        let kept = (0..<tokens).map { ($0 * 5) % 256 }
        _ = try await session.feed(kept)
        _ = try await session.feed([250, 251, 252, 253, 254, 255, 249, 248])  // a chunk
        try await session.rewind(3)
        try await session.rewind(5)
        #expect(await session.position == tokens)
        #expect(await session.rewindable == 0, "one more, and a key that is wanted is gone")
        await #expect(throws: EdgesinkError.self) { try await session.rewind(1) }
        var whole = kept
        for id in [7, 9, 11] {
            whole.append(id)
            #expect(Sampler.argmax(try await session.feed([id])) == ToyBackend.next(after: whole, ring))
        }
    }

    @Test func neitherTheModelsOwnTokenNorWhatWasBeforeARestoreIsTakenBack() async throws {
        let folder = try TemporaryFolder()
        let session = try session(sinks: 1, sinkToken: 7)
        _ = try await session.feed([1, 2, 3])
        #expect(await session.rewindable == 3)
        try await session.save(to: folder.file("talk"))
        try await session.restore(from: folder.file("talk"))
        #expect(await session.rewindable == 0)
        _ = try await session.feed([4, 5])
        #expect(await session.rewindable == 2)
        try await session.reset()
        #expect(await session.rewindable == 0)
    }

    @Test(arguments: [10, 100])
    func valuesAreThoseOfTheTokens(tokens: Int) async throws {
        let session = try session()
        _ = try await session.feed(Array(0..<tokens))
        let range = (tokens - 9)..<(tokens - 2)
        let expected = range.flatMap { token in
            (0..<32).map { ToyBackend.value(of: token, layer: 1, place: $0) }
        }
        #expect(try await session.values(layer: 1, of: range) == expected)
        let pinned = (0..<4).flatMap { token in (0..<32).map { ToyBackend.value(of: token, layer: 0, place: $0) } }
        #expect(try await session.values(layer: 0, of: 0..<4) == pinned)
    }

    @Test func valuesThatAreGoneOrNotThereAreRefused() async throws {
        let session = try session()
        _ = try await session.feed(Array(0..<100))
        let slots = await session.status.ring.slots
        _ = try await session.values(layer: 0, of: (100 - slots)..<100)
        for range in [(99 - slots)..<100, 90..<101, 50..<50, 3..<6] {
            await #expect(throws: EdgesinkError.self) { try await session.values(layer: 0, of: range) }
        }
        await #expect(throws: EdgesinkError.self) { try await session.values(layer: 2, of: 90..<95) }
        await #expect(throws: EdgesinkError.self) { try await session.values(layer: -1, of: 90..<95) }
    }

    @Test func coreMLHasTheValuesOfALayerBehindItsKeys() throws {
        func made(_ views: Int, namesLayers: Bool) throws -> Manifest {
            let fields = try Golden.coreML(views: views, namesLayers: namesLayers)
            return try Manifest(json: Data(JSON.object(fields).text.utf8))
        }
        let manifest = try made(2, namesLayers: true)
        let places = try (0..<5).map { try manifest.values(ofLayer: $0) }
        #expect(places.map(\.state.name) == [1, 0, 1, 0, 1].map { manifest.states[$0].name })
        #expect(places.map(\.block) == [1, 1, 3, 3, 5])
        #expect(throws: EdgesinkError.self) { try manifest.values(ofLayer: 5) }
        #expect(throws: EdgesinkError.self, "which layers those of a view are is not said") {
            try made(2, namesLayers: false).values(ofLayer: 0)
        }
        let oneView = try made(1, namesLayers: false)
        #expect(oneView.states[0].shape[0] == 4, "keys and values of two layers")
        #expect(try oneView.values(ofLayer: 1).block == 3)
        #expect(throws: EdgesinkError.self) { try oneView.values(ofLayer: 2) }
        #expect(throws: EdgesinkError.self) { try oneView.values(ofLayer: -1) }
    }
}
