import Foundation
import TestSupport
import Testing

@testable import EdgesinkCore
@testable import EdgesinkMemory

/// Tokens of the toy are bytes, and every logit depends on all that is seen.
@Suite("The model as the judge of passages, over the toy")
struct JudgeTests {
    /// A conversation that has lost its beginning, or one at its start.
    private static func talk(turns: Int, chunk: Int = 64) async throws -> (Conversation, ToyBackend) {
        let manifest = try toyManifest(window: 400, chunk: chunk)
        let backend = ToyBackend(manifest: manifest)
        let session = try StreamSession(manifest: manifest, backend: backend)
        let conversation = try Conversation(session: session, tokenizer: byteTokenizer())
        for number in 0..<turns {
            let said = "Sentence \(number) is about the weather of today."
            let answer = try await conversation.ask(said, maxNewTokens: 3)
            while try await answer.next() != nil {}
        }
        return (conversation, backend)
    }

    private static let calibration = Calibration(
        name: "toy", numbers: .init(layer: 0, gateLayer: 0, asks: -9, isQuestion: -9, least: -1),
        mean: [Float](repeating: 0, count: 32), scale: [Float](repeating: 1, count: 32),
        gateMean: [Float](repeating: 0, count: 32), gate: Rows(width: 32, [Float](repeating: 0, count: 64)),
        gateOffset: [0, 0])

    /// What a judge says of passages; nil where there is none.
    private static func gains(
        _ conversation: Conversation, _ message: String, _ passages: [String]
    ) async throws -> [Double]? {
        let unfed = try await conversation.nextTurn(message)
        return try await Asking.asking(unfed, calibration, conversation, judges: true) { _, judge in
            guard let judge else { return nil }
            var found: [Double] = []
            for passage in passages { found.append(try await judge.gain(of: passage)) }
            return found
        }
    }

    /// The same by its definition, from the logits of every token of a message in streams of its own.
    private static func byHand(
        _ conversation: Conversation, _ message: String, _ passage: String
    ) async throws -> Double {
        let unfed = try await conversation.nextTurn(message)
        let judged = Array(unfed.message.prefix(Judge.mostMessage))
        let head = Array(unfed.turn.dropLast(unfed.closing).dropLast(unfed.message.count))
        let manifest = conversation.session.manifest
        func nats(behind ids: [Int]) async throws -> [Double] {
            let folder = try TemporaryFolder()
            let session = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest))
            if await conversation.session.position > 0 {
                try await conversation.save(to: folder.file("talk"))
                try await session.restore(from: folder.file("talk"))
            }
            var logits = try await session.feed(head + ids + [judged[0]])
            var found: [Double] = []
            for id in judged.dropFirst() {
                let all = logits.reduce(0) { $0 + exp(Double($1)) }
                found.append(-log(exp(Double(logits[id])) / all))
                logits = try await session.feed([id])
            }
            return found
        }
        let behind = try await nats(behind: Array("\(passage)\n".utf8).map { Int($0) })
        let gains = zip(try await nats(behind: []), behind).map { $0 - $1 }
        #expect(gains.contains { abs($0) > Judge.mostGain }, "what follows is seen only where one counts less")
        return gains.map { min(max($0, -2), 2) }.reduce(0, +) / Double(gains.count)
    }

    @Test(arguments: [0, 12], ["Who has it?", "Who has the ladder and the box?"])
    func aGainIsHowMuchLikelierTheMessageIsAToken(turns: Int, message: String) async throws {
        let (conversation, _) = try await Self.talk(turns: turns)
        let expected = try await Self.byHand(conversation, message, "Ilse has it.")
        let found = try #require(
            try await Self.gains(conversation, message, ["Ilse  has\nit.", "Greta.", "Ilse has it."]))
        #expect(abs(found[0] - expected) < 1e-5 && found[2] == found[0])
        #expect(abs(found[1] - found[0]) > 1e-3)
    }

    @Test func aMessageOfOneTokenIsNoLikelierBehindAnything() async throws {
        let (conversation, _) = try await Self.talk(turns: 12)
        #expect(try await Self.gains(conversation, "W", ["Ilse has it.", "Greta."]) == [0, 0])
    }

    @Test(arguments: [0, 12], ["Who has it?", "Who has the ladder and the box?"])
    func theStreamIsAsIfNothingHadBeenJudged(turns: Int, message: String) async throws {
        let ((judged, backend), (other, _)) = (try await Self.talk(turns: turns), try await Self.talk(turns: turns))
        let before = await backend.runs
        _ = try await Self.gains(judged, message, ["Ilse has it.", String(repeating: "Long. ", count: 40), ""])
        #expect(await backend.runs > before + 30)
        #expect(await judged.session.position == other.session.position)
        func answer(_ conversation: Conversation) async throws -> [Int] {
            let answer = try await conversation.ask(message, maxNewTokens: 12)
            var ids: [Int] = []
            while let token = try await answer.next() { ids.append(token.id) }
            return ids
        }
        #expect(try await answer(judged) == answer(other))
    }

    @Test(arguments: [0, 12], [0, 7, 12]) func itIsAsItWasWhenJudgingFails(turns: Int, after: Int) async throws {
        let (conversation, backend) = try await Self.talk(turns: turns)
        let position = await conversation.session.position
        let head = "\nuser: ".utf8.count - (turns == 0 ? 1 : 0)
        await backend.failAt(position: position + head + after)
        await #expect(throws: ToyBackend.Failed.self) {
            try await Self.gains(conversation, "Who has it?", ["Ilse", "Ilse has it."])
        }
        #expect(await conversation.session.position == position)
        await backend.failAt(position: -1)
        #expect(try await Self.gains(conversation, "Who has it?", ["Ilse has it."])?.count == 1)
    }

    @Test func whatLeavesNoRoomForAPassageIsNotJudged() async throws {
        let (small, _) = try await Self.talk(turns: 3, chunk: 16)
        #expect(try await Self.gains(small, "Who has it?", ["Ilse has it."]) == nil)
        let (conversation, _) = try await Self.talk(turns: 3)
        #expect(try await Self.gains(conversation, String(repeating: "Who? ", count: 20), ["Ilse has it."]) == nil)
    }

    @Test func noJudgeIsMadeWhereNoneIsAskedFor() async throws {
        let (conversation, backend) = try await Self.talk(turns: 3)
        let unfed = try await conversation.nextTurn("Who has it?")
        let before = await backend.runs
        let hasJudge = try await Asking.asking(unfed, Self.calibration, conversation, judges: false) { $1 != nil }
        #expect(!hasJudge)
        #expect(await backend.runs == before + 1)
    }
}
