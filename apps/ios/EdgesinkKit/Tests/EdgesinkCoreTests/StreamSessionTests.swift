import EdgesinkCore
import Foundation
import TestSupport
import Testing

@Suite("A session over a toy that forgets exactly what a ring forgets")
struct StreamSessionTests {
    private func session(sinks: Int? = nil, eos: [Int] = [], delay: Duration? = nil) throws -> StreamSession {
        let manifest = try toyManifest(eos: eos)
        return try StreamSession(
            manifest: manifest, backend: ToyBackend(manifest: manifest, delay: delay), sinks: sinks)
    }

    @Test(arguments: [0, 1, 4, 16])
    func streamsThroughManyWraps(sinks: Int) async throws {
        let session = try session(sinks: sinks)
        let ring = await session.status.ring
        var tokens = Array(0..<100)  // longer than the capacity of 32
        let stream = try await session.generate(tokens, tokenizer: byteTokenizer(), maxNewTokens: 500)
        for try await token in stream {
            #expect(token.id == ToyBackend.next(after: tokens, ring))
            tokens.append(token.id)
        }
        #expect(tokens.count == 600)
        #expect(await session.position == 599)  // the last one is not fed: nobody asked for the next
        #expect(await session.status.forgotten == 599 - 32)
    }

    @Test func layersOfTheirOwnWindowForgetEarlierThanTheOthers() async throws {
        let manifest = try Manifest(json: Data(Golden.manifest("two_views").text.utf8))
        let session = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest), sinks: 2)
        let rings = try manifest.rings(sinks: 2)
        #expect(rings.map(\.sinks) == [2, 0])
        #expect(rings.map(\.window) == [30, 8])
        var tokens: [Int] = []
        for size in [3, 8, 1, 1, 20, 1, 60, 1, 1, 100, 1] {
            let ids = (0..<size).map { ($0 * 7 + tokens.count) % 256 }
            tokens += ids
            let logits = try await session.feed(ids)
            #expect(Sampler.argmax(logits) == ToyBackend.next(after: tokens, rings[0], rings[1]))
        }
        let folder = try TemporaryFolder()
        try await session.save(to: folder.file("talk"))
        let other = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest))
        try await other.restore(from: folder.file("talk"))
        #expect(try await other.feed([9]) == session.feed([9]))
    }

    @Test func everyStreamBeginsWithTheModelsSinkToken() async throws {
        let manifest = try toyManifest(sinkToken: 7)
        let session = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest), sinks: 1)
        let ring = await session.status.ring
        for _ in 0..<2 {  // and after a reset once more
            let logits = try await session.feed(Array(0..<100))
            #expect(Sampler.argmax(logits) == ToyBackend.next(after: [7] + Array(0..<100), ring))
            #expect(await session.position == 101)
            let next = try await session.feed([9])
            #expect(Sampler.argmax(next) == ToyBackend.next(after: [7] + Array(0..<100) + [9], ring))
            try await session.reset()
        }
    }

    @Test func givesTheSameForChunksOfAnySizes() async throws {
        var answers: Set<[Float]> = []
        for pieces in [1, 3, 8, 31, 200] {
            let session = try session()
            var logits: [Float] = []
            for start in stride(from: 0, to: 200, by: pieces) {
                logits = try await session.feed(Array(start..<min(start + pieces, 200)))
            }
            answers.insert(logits)
        }
        #expect(answers.count == 1)
    }

    @Test func aTokenIsFedWhenTheNextIsAskedFor() async throws {
        let session = try session()
        let generation = try await session.generation([1, 2, 3], tokenizer: byteTokenizer())
        let first = try #require(try await generation.next())
        #expect(await session.position == 3)
        #expect(await generation.unfed == [first.id])
        _ = try await generation.next()
        #expect(await session.position == 4)
    }

    @Test func endsWithAnEndIdWithoutFeedingIt() async throws {
        let ring = try toyManifest().stream.ring()
        let first = ToyBackend.next(after: [1, 2, 3], ring)
        let second = ToyBackend.next(after: [1, 2, 3, first], ring)
        let session = try session(eos: [second])
        let generation = try await session.generation([1, 2, 3], tokenizer: byteTokenizer())
        var ids: [Int] = []
        while let token = try await generation.next() { ids.append(token.id) }
        #expect(ids == [first, second])
        #expect(await session.position == 4)
        #expect(await generation.unfed == [])
    }

    @Test func anEndIdHasNoText() async throws {
        let tokenizer = try byteTokenizer()
        let ring = try toyManifest().stream.ring()
        let first = ToyBackend.next(after: [1, 2, 3], ring)
        let second = ToyBackend.next(after: [1, 2, 3, first], ring)
        let session = try session(eos: [second])
        var shown = ""
        for try await token in try await session.generate([1, 2, 3], tokenizer: tokenizer) { shown += token.text }
        #expect(shown == tokenizer.decode([first]))
        #expect(!tokenizer.decode([second]).isEmpty)
    }

    @Test(arguments: [Float.nan, .infinity, -.infinity]) func stopsAtALogitThatIsNotFinite(bad: Float) async throws {
        let manifest = try toyManifest()
        let backend = ToyBackend(manifest: manifest)
        let session = try StreamSession(manifest: manifest, backend: backend)
        _ = try await session.feed(Array(0..<40))
        await backend.breakAt(position: 41, with: bad)
        _ = try await session.feed([40])
        let error = await #expect(throws: EdgesinkError.self) { try await session.feed([41]) }
        #expect(error?.kind == .badNumbers)
        #expect(error?.description.contains("position 41") == true)
        await #expect(throws: EdgesinkError.self) { try await session.feed([42]) }
        try await session.reset()
        #expect(await backend.wasLoaded)
        #expect(try await session.feed([5]) == ToyBackend.logits(after: [5], 256))
    }

    @Test func leavesTheLastOfANumberOfTokensUnfed() async throws {
        let session = try session()
        let generation = try await session.generation([1, 2, 3], tokenizer: byteTokenizer(), maxNewTokens: 2)
        var ids: [Int] = []
        while let token = try await generation.next() { ids.append(token.id) }
        #expect(ids.count == 2)
        #expect(await session.position == 4)
        #expect(await generation.unfed == [ids[1]])
        let none = try await session.generation([1], tokenizer: byteTokenizer(), maxNewTokens: 0)
        #expect(try await none.next() == nil)
        #expect(await session.position == 5)
    }

    @Test func stopsAtAStopString() async throws {
        let tokenizer = try byteTokenizer()
        var whole = ""
        for try await token in try await session().generate([65], tokenizer: tokenizer, maxNewTokens: 200) {
            whole += token.text
        }
        let scalars = Array(whole.unicodeScalars)
        let stop = String(String.UnicodeScalarView(scalars[40..<43]))
        var shown = ""
        let session = try session()
        for try await token in try await session.generate([65], tokenizer: tokenizer, maxNewTokens: 200, stop: [stop]) {
            shown += token.text
        }
        #expect(!shown.contains(stop))
        #expect(whole.unicodeScalars.starts(with: (shown + stop).unicodeScalars))
    }

    @Test func cancellingTheReaderStopsTheStream() async throws {
        let session = try session(delay: .milliseconds(2))
        let tokens = try await session.generate([1], tokenizer: byteTokenizer())
        let reader = Task {
            var count = 0
            for try await _ in tokens { count += 1 }
            return count
        }
        while await session.position < 3 { try await Task.sleep(for: .milliseconds(1)) }
        reader.cancel()
        _ = await reader.result
        let position = await session.position
        try await Task.sleep(for: .milliseconds(20))
        #expect(await session.position == position)
        try await session.reset()
        #expect(try await session.feed([5]) == ToyBackend.logits(after: [5], 256))
    }

    @Test func refusesASecondFeedMeanwhile() async throws {
        let session = try session(delay: .milliseconds(200))
        let first = Task { try await session.feed([1, 2, 3]) }
        try await Task.sleep(for: .milliseconds(50))
        await #expect(throws: EdgesinkError.self) { try await session.feed([4]) }
        await #expect(throws: EdgesinkError.self) { try await session.reset() }
        _ = try await first.value
        #expect(await session.position == 3)
    }

    @Test func aResetEndsTheGenerationsOfTheEarlierStream() async throws {
        let session = try session()
        let generation = try await session.generation([1], tokenizer: byteTokenizer())
        _ = try await generation.next()
        try await session.reset(sinks: 2)
        await #expect(throws: CancellationError.self) { try await generation.next() }
        #expect(await session.status.ring.sinks == 2)
        #expect(await session.position == 0)
    }

    @Test func refusesWhatTheBundleCannotDo() async throws {
        #expect(throws: EdgesinkError.self) { try self.session(sinks: 17) }
        let session = try session()
        await #expect(throws: EdgesinkError.self) { try await session.feed([]) }
        await #expect(throws: EdgesinkError.self) { try await session.feed([1, 256]) }
        await #expect(throws: EdgesinkError.self) { try await session.reset(sinks: -1) }
        #expect(await session.position == 0)
    }

    @Test(arguments: [5, 500]) func savesAndRestores(tokens: Int) async throws {
        let folder = try TemporaryFolder()
        let session = try session(sinks: 2)
        _ = try await session.feed((0..<tokens).map { $0 % 256 })
        try await session.save(to: folder.file("talk"))
        let expected = try await session.feed([7])
        let other = try self.session()
        try await other.restore(from: folder.file("talk"))
        #expect(await other.position == tokens)
        #expect(await other.status.ring.sinks == 2)
        #expect(try await other.feed([7]) == expected)
    }

    @Test func aDamagedSessionFileLeavesTheStreamAsItWas() async throws {
        let folder = try TemporaryFolder()
        let session = try session()
        _ = try await session.feed([1, 2, 3])
        try await session.save(to: folder.file("talk"))
        let good = try Data(contentsOf: folder.file("talk"))
        let text = String(decoding: good, as: UTF8.self)
        let foreign = Data(text.replacing(session.manifest.fingerprint, with: String(repeating: "0", count: 64)).utf8)
        for bad in [
            Data(), good.dropLast(), good.prefix(20), Data(count: 100), Data(repeating: 255, count: 64), foreign,
        ] {
            try bad.write(to: folder.file("talk"))
            await #expect(throws: EdgesinkError.self) { try await session.restore(from: folder.file("talk")) }
        }
        await #expect(throws: EdgesinkError.self) { try await session.restore(from: folder.file("none")) }
        #expect(await session.position == 3)
    }
}
