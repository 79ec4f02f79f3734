import EdgesinkCore
import Foundation
import TestSupport
import Testing

@Suite("Conversations, self-test and device check over the toy")
struct ConversationTests {
    private static func conversation(system: String? = nil) throws -> Conversation {
        let manifest = try toyManifest()
        let session = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest))
        return try Conversation(session: session, tokenizer: byteTokenizer(), system: system)
    }

    @Test func feedsEveryTurnOnceAndWhatWasLeftUnfedFirst() async throws {
        let conversation = try Self.conversation(system: "S")
        let first = try await conversation.ask("a", maxNewTokens: 5)
        var made: [Int] = []
        for _ in 0..<3 { made.append(try #require(try await first.next()).id) }  // the third is not fed: not asked on
        let opening = "system: S\nuser: a\nassistant:"
        #expect(await conversation.session.position == opening.utf8.count + 2)
        let second = try await conversation.ask("b", maxNewTokens: 1)
        let id = try #require(try await second.next()).id
        let next = "\nuser: b\nassistant:"
        let whole = opening.utf8.map(Int.init) + made + next.utf8.map(Int.init)
        #expect(await conversation.session.position == whole.count)
        #expect(id == ToyBackend.next(after: whole, await conversation.session.status.ring))
    }

    @Test func pinsAWholeSystemPrompt() async throws {
        let conversation = try Self.conversation()
        let tokens = try await conversation.tokens(ofSystem: "S")
        #expect(tokens == "system: S\nuser: ".utf8.count)
        try await conversation.reset(system: "S", sinks: 16)
        #expect(await conversation.session.status.ring.sinks == 16)
        await #expect(throws: EdgesinkError.self) { try await conversation.reset(system: "S", sinks: tokens + 1) }
    }

    @Test func aModelThatIsNotForConversationsSaysWhy() throws {
        let manifest = try Manifest(json: Data(Golden.manifest("two_views").text.utf8))
        let session = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest))
        #expect(throws: EdgesinkError.self) { try Conversation(session: session, tokenizer: byteTokenizer()) }
        #expect(manifest.noTurns == "it has no chat template")
    }

    @Test func aSavedConversationGoesOn() async throws {
        let folder = try TemporaryFolder()
        let conversation = try Self.conversation()
        let answer = try await conversation.ask("a", maxNewTokens: 4)
        _ = try await answer.next()
        try await conversation.save(to: folder.file("talk"))
        let other = try Self.conversation()
        try await other.restore(from: folder.file("talk"))
        #expect(await other.session.position == conversation.session.position)
        let ids = [try await conversation.ask("b"), try await other.ask("b")]
        #expect(try await ids[0].next() == ids[1].next())
    }

    @Test func theSelfTestTellsAWrongMachineFromARightOne() async throws {
        let manifest = try toyManifest()
        let session = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest), sinks: 2)
        let ring = try manifest.stream.ring(sinks: 3)
        var tokens = [1, 2, 3]
        for _ in 0..<SelfTest.tokens { tokens.append(ToyBackend.next(after: tokens, ring)) }
        let right = GoldenStream(sinks: 3, prompt: [1, 2, 3], expected: Array(tokens[3...]))
        try await SelfTest.run(right, on: session)
        let wrong = GoldenStream(
            sinks: 3, prompt: [1, 2, 3], expected: tokens[3...].map { ($0 + 1) % 256 })
        await #expect(throws: EdgesinkError.self) { try await SelfTest.run(wrong, on: session) }
        #expect(await session.position == 0)
        #expect(await session.status.ring.sinks == 2)
    }

    @Test func theDeviceCheckReportsWhatItMeasured() async throws {
        let manifest = try toyManifest()
        let session = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest))
        var check = DeviceCheck()
        (check.duration, check.interval, check.prefillTokens) = (.milliseconds(300), .milliseconds(50), 40)
        let report = try await check.run(
            session, tokenizer: byteTokenizer(), golden: nil, facts: Machine.facts + [("load_seconds", .double(1))])
        #expect(report["load_seconds"]?.double == 1)
        #expect(report["golden"]?.isNull == true)
        #expect((report["prefill_tokens_per_second"]?.double ?? 0) > 0)
        #expect((report["tokens"]?.int ?? 0) > 32)
        let lines = Golden.list(report["intervals"])
        #expect(lines.count >= 2)
        #expect(lines.allSatisfy { ($0["tokens_per_second"]?.double ?? 0) > 0 && $0["thermal_state"]?.string != nil })
        #expect(try JSON.parse(report.text.utf8)["machine"]?.string?.isEmpty == false)
        #expect(await session.position == 0)
    }

    @Test func aPromptCancelledHalfwayIsGoneOnWith() async throws {
        let manifest = try toyManifest()
        let backend = ToyBackend(manifest: manifest, delay: .milliseconds(30))
        let session = try StreamSession(manifest: manifest, backend: backend)
        let generation = try await session.generation(Array(0..<64), tokenizer: byteTokenizer())
        let reader = Task { try await generation.next() }
        while await session.position == 0 { try await Task.sleep(for: .milliseconds(1)) }
        reader.cancel()
        _ = await reader.result
        let position = await session.position
        #expect(position < 64)
        #expect(await generation.unfed == Array(position..<64))
        let token = try await generation.next()
        #expect(token?.id == ToyBackend.next(after: Array(0..<64), await session.status.ring))
    }
}
