import Foundation
import TestSupport
import Testing

@testable import EdgesinkCore

/// What the toy makes of a stream depends on each of its pinned tokens, and its states tell which tokens they hold.
@Suite("Other pinned tokens for a running stream: those of a stream that began so, and all else as it was")
struct RepinTests {
    private static let ids = (0..<120).map { ($0 * 31 + 5) % 250 + 2 }
    private static let others = (0..<20).map { ($0 * 53 + 77) % 250 + 2 }

    private static func stream(
        _ manifest: Manifest, sinks: Int? = nil, delay: Duration? = nil
    ) throws -> (session: StreamSession, backend: ToyBackend) {
        let backend = ToyBackend(manifest: manifest, delay: delay)
        return (try StreamSession(manifest: manifest, backend: backend, sinks: sinks), backend)
    }

    private static func twoViews() throws -> Manifest {
        try Manifest(json: Data(Golden.manifest("two_views").text.utf8))
    }

    /// The rows of every block and head from one on.
    private static func rows(_ tensor: StateTensor, from first: Int) -> [Float] {
        (0..<tensor.shape[0]).flatMap { tensor.floats(block: $0, rows: Array(first..<tensor.shape[2])) }
    }

    @Test(arguments: [1, 4, 8, 16], [16, 20, 43, 100])
    func pinnedRowsAreThoseOfAStreamThatBeganSoAndAllOthersStay(sinks: Int, place: Int) async throws {
        for manifest in [try toyManifest(), try Self.twoViews()] {
            let (session, backend) = try Self.stream(manifest, sinks: sinks)
            _ = try await session.feed(Array(Self.ids.prefix(place)))
            let (before, rewindable, epoch) = (
                await backend.state(), await session.rewindable, await session.epoch
            )
            let old = try await session.repin(Array(Self.others.prefix(sinks)))
            let (begun, other) = try Self.stream(manifest, sinks: sinks)
            _ = try await begun.feed(Array(Self.others.prefix(sinks)))
            let (after, whole) = (await backend.state(), await other.state())
            var pinned = 0
            for (state, index) in zip(manifest.states, 0...) {
                let count = manifest.views[state.view].sinks ? sinks : 0
                #expect(after[index].firstRows(count) == whole[index].firstRows(count))
                #expect(Self.rows(after[index], from: count) == Self.rows(before[index], from: count))
                if count > 0 {
                    #expect(old.rows[pinned] == before[index].firstRows(count))
                    pinned += 1
                }
            }
            #expect(old.rows.count == pinned && pinned > 0)
            #expect(old.bytes == old.rows.reduce(0) { $0 + $1.bytes.count })
            #expect(await session.position == place)
            #expect(await session.status.ring.sinks == sinks)
            #expect(await session.rewindable == rewindable)
            #expect(await session.epoch == epoch, "a generation goes on")
        }
    }

    @Test func aRepinnedStreamSeesItsNewTokensAndTheOldOnesOnceTheyArePutBack() async throws {
        let manifest = try toyManifest()
        let (session, backend) = try Self.stream(manifest)
        let ring = await session.status.ring
        _ = try await session.feed(Array(Self.ids.prefix(60)))
        let before = await backend.state()
        let old = try await session.repin(Array(Self.others.prefix(4)))
        let seen = Self.others.prefix(4) + Self.ids[4..<60] + [5]
        #expect(Sampler.argmax(try await session.feed([5])) == ToyBackend.next(after: Array(seen), ring))
        try await session.rewind(1)
        let new = try await session.pinnedRows()
        try await session.putPinnedRows(old)
        let plain = Self.ids.prefix(60) + [5]
        #expect(Sampler.argmax(try await session.feed([5])) == ToyBackend.next(after: Array(plain), ring))
        try await session.rewind(1)
        try await session.putPinnedRows(new)
        #expect(Sampler.argmax(try await session.feed([5])) == ToyBackend.next(after: Array(seen), ring))
        try await session.putPinnedRows(old)
        _ = try await session.feed([6])
        let (plainSession, plainBackend) = try Self.stream(manifest)
        _ = try await plainSession.feed(Array(plain) + [6])
        #expect(await backend.state() == plainBackend.state())
        #expect(await before != backend.state())
    }

    @Test func repinningWhatIsPinnedChangesNoBit() async throws {
        let (session, backend) = try Self.stream(try toyManifest())
        _ = try await session.feed(Array(Self.ids.prefix(60)))
        let before = await backend.state()
        _ = try await session.repin(Array(Self.ids.prefix(4)))
        #expect(await backend.state() == before)
    }

    @Test func whatWasTakenBackAfterARepinWasNeverFed() async throws {
        let (session, _) = try Self.stream(try toyManifest())
        let ring = await session.status.ring
        _ = try await session.feed(Array(Self.ids.prefix(60)))
        _ = try await session.feed([250, 251, 252])
        _ = try await session.repin(Array(Self.others.prefix(4)))
        try await session.rewind(3)
        let seen = Self.others.prefix(4) + Self.ids[4..<60] + [9]
        #expect(Sampler.argmax(try await session.feed([9])) == ToyBackend.next(after: Array(seen), ring))
    }

    @Test func aSavedSessionHasTheRowsOfTheMoment() async throws {
        let folder = try TemporaryFolder()
        let (session, _) = try Self.stream(try toyManifest())
        _ = try await session.feed(Array(Self.ids.prefix(60)))
        let old = try await session.repin(Array(Self.others.prefix(4)))
        try await session.save(to: folder.file("talk"))
        try await session.putPinnedRows(old)
        #expect(try await session.pinnedRows() == old)
        try await session.restore(from: folder.file("talk"))
        #expect(try await session.pinnedRows() != old)
    }

    // MARK: - What is refused, and leaves the stream as it was

    private static func refusal(_ work: () async throws -> Void) async -> String {
        do { try await work() } catch { return "\(error)" }
        return ""
    }

    @Test func anotherNumberOfIdsOrNoneAreRefused() async throws {
        let (session, backend) = try Self.stream(try toyManifest())
        _ = try await session.feed(Array(Self.ids.prefix(30)))
        let before = await backend.state()
        for ids in [Array(Self.others.prefix(3)), Array(Self.others.prefix(5))] {
            let words = await Self.refusal { _ = try await session.repin(ids) }
            #expect(words.hasPrefix("\(ids.count) ids to pin; expected 4, the sinks of this stream; "))
        }
        #expect(await Self.refusal { _ = try await session.repin([]) } == "no ids; expected one id or more")
        let outside = await Self.refusal { _ = try await session.repin([1, 2, 3, 256]) }
        #expect(outside.hasPrefix("token id 256; expected 0 to 255"))
        #expect(await backend.state() == before)
        try await session.reset(sinks: 0)
        _ = try await session.feed(Self.ids)
        let none = await Self.refusal { _ = try await session.repin([5]) }
        #expect(none.hasPrefix("1 ids to pin; expected 0, "))
    }

    @Test func aStreamThatHasNotFedItsPinnedTokensIsRefused() async throws {
        let (session, _) = try Self.stream(try toyManifest())
        _ = try await session.feed(Array(Self.ids.prefix(3)))
        let words = "pinned rows of a stream of 3 tokens; expected 4 or more; feed what is to be pinned first"
        #expect(await Self.refusal { _ = try await session.repin(Array(Self.others.prefix(4))) } == words)
        #expect(await Self.refusal { _ = try await session.pinnedRows() } == words)
    }

    @Test func rowsOfAnotherStreamAreRefused() async throws {
        let (session, _) = try Self.stream(try toyManifest())
        _ = try await session.feed(Array(Self.ids.prefix(30)))
        let rows = try await session.pinnedRows()
        let foreign = PinnedRows(fingerprint: "0", sinks: 4, rows: rows.rows)
        let words = await Self.refusal { try await session.putPinnedRows(foreign) }
        #expect(words.hasPrefix("4 pinned rows of another bundle; expected 4 of this bundle; "))
        let half = rows.rows.map {
            StateTensor(
                name: $0.name, dtype: .float16, shape: $0.shape, bytes: $0.bytes.prefix($0.bytes.count / 2))
        }
        let short = rows.rows.map {
            StateTensor(name: $0.name, dtype: $0.dtype, shape: $0.shape, bytes: $0.bytes.dropLast(4))
        }
        for wrong in [half, short, Array(rows.rows.dropLast())] {
            let other = PinnedRows(fingerprint: rows.fingerprint, sinks: 4, rows: wrong)
            let words = await Self.refusal { try await session.putPinnedRows(other) }
            #expect(words.hasPrefix("pinned rows of another runner"))
        }
        try await session.reset(sinks: 2)
        _ = try await session.feed(Array(Self.ids.prefix(30)))
        let many = await Self.refusal { try await session.putPinnedRows(rows) }
        #expect(many.hasPrefix("4 pinned rows; expected 2 of this bundle; "))
    }

    @Test func theModelsOwnSinkTokenStaysInFront() async throws {
        let (session, _) = try Self.stream(try toyManifest(sinkToken: 7))
        _ = try await session.feed(Array(Self.ids.prefix(30)))
        let words = await Self.refusal { _ = try await session.repin([1, 2, 3, 4]) }
        #expect(words == "ids to pin that begin with 1; expected 7, the model's own sink token; put it in front")
        _ = try await session.repin([7, 2, 3, 4])
    }

    @Test func aScratchStreamThatBreaksLeavesTheStateAsItWas() async throws {
        let (session, backend) = try Self.stream(try toyManifest(), sinks: 16)
        let ring = await session.status.ring
        _ = try await session.feed(Array(Self.ids.prefix(60)))
        let before = await backend.state()
        await backend.breakAt(position: 15, with: .nan)
        let words = await Self.refusal { _ = try await session.repin(Array(Self.others.prefix(16))) }
        #expect(words.hasPrefix("the logits after the tokens to be pinned are not finite; start a new stream"))
        #expect(await backend.state() == before)
        await backend.failAt(position: 8)  // its second chunk
        await #expect(throws: ToyBackend.Failed.self) { try await session.repin(Array(Self.others.prefix(16))) }
        #expect(await backend.state() == before)
        #expect(await session.position == 60)
        let next = ToyBackend.next(after: Array(Self.ids.prefix(60)) + [5], ring)
        #expect(Sampler.argmax(try await session.feed([5])) == next)
    }

    @Test func aTaskThatIsCancelledInTheScratchStreamLeavesTheStateAsItWas() async throws {
        let (session, backend) = try Self.stream(try toyManifest(), sinks: 16, delay: .milliseconds(60))
        _ = try await session.feed(Array(Self.ids.prefix(20)))
        let (before, runs) = (await backend.state(), await backend.runs)
        let task = Task { try await session.repin(Array(Self.others.prefix(16))) }
        while await backend.runs == runs { try await Task.sleep(for: .milliseconds(1)) }
        #expect(await backend.state() != before, "the first chunk of the scratch stream is there")
        await #expect(throws: EdgesinkError.self, "nothing else is fed meanwhile") { try await session.feed([1]) }
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
        #expect(await backend.state() == before)
        #expect(await session.position == 20)
    }

    @Test func rowsArePutBackBehindAFeedThatIsUnderWay() async throws {
        let (session, _) = try Self.stream(try toyManifest(), delay: .milliseconds(60))
        let ring = await session.status.ring
        _ = try await session.feed(Array(Self.ids.prefix(6)))
        let old = try await session.repin(Array(Self.others.prefix(4)))
        let feed = Task { try await session.feed([1]) }
        try await Task.sleep(for: .milliseconds(10))
        await #expect(throws: EdgesinkError.self) { try await session.repin(Array(Self.others.prefix(4))) }
        try await session.putPinnedRows(old)
        _ = try await feed.value
        let seen = Self.ids.prefix(6) + [1, 2]
        #expect(Sampler.argmax(try await session.feed([2])) == ToyBackend.next(after: Array(seen), ring))
    }

    @Test func rowsOfHalvesLieWhereTheirBytesAre() {
        let numbers = (0..<24).map(UInt16.init)  // [2, 2, 3, 2]
        var whole = StateTensor(
            name: "kv_cache", dtype: .float16, shape: [2, 2, 3, 2], bytes: numbers.withUnsafeBytes { Data($0) })
        let first = whole.firstRows(1)
        #expect(first.shape == [2, 2, 1, 2])
        #expect(first.bytes == [0, 1, 6, 7, 12, 13, 18, 19].map(UInt16.init).withUnsafeBytes { Data($0) })
        let others = (100..<108).map(UInt16.init).withUnsafeBytes { Data($0) }
        whole.replaceFirstRows(
            with: StateTensor(name: "kv_cache", dtype: .float16, shape: [2, 2, 1, 2], bytes: others))
        let expected = [
            100, 101, 2, 3, 4, 5, 102, 103, 8, 9, 10, 11, 104, 105, 14, 15, 16, 17, 106, 107, 20, 21, 22, 23,
        ].map(UInt16.init)
        #expect(whole.bytes == expected.withUnsafeBytes { Data($0) })
        #expect(whole.shape == [2, 2, 3, 2])
    }
}
