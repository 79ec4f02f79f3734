import Foundation
import TestSupport
import Testing

@testable import EdgesinkCore
@testable import EdgesinkMemory

/// Tokens of the toy are bytes, and the keys of its pinned rows say which it holds.
@Suite("A memory that brings passages back in the pinned rows, over the toy")
struct PinnedMemoryTests {
    private static let shed = "The code of the garden shed is 4471."
    private static let question = "What is the code of the garden shed?"

    /// A conversation, its memory and what runs it.
    private struct Talk {
        let conversation: Conversation
        let memory: Memory
        let backend: ToyBackend

        var session: StreamSession { conversation.session }

        init(
            _ file: URL, way: RecallWay = .pinned, maxSinks: Int = 132, sinkToken: Int? = nil, delay: Duration? = nil
        ) throws {
            let manifest = try toyManifest(sinkToken: sinkToken, window: 400, maxSinks: maxSinks)
            backend = ToyBackend(manifest: manifest, delay: delay)
            memory = try Memory(file, way: way)
            conversation = try Conversation(
                session: StreamSession(manifest: manifest, backend: backend), tokenizer: byteTokenizer(), memory: memory
            )
        }

        @discardableResult
        func say(_ message: String, _ tokens: Int = 0) async throws -> [Int] {
            let answer = try await conversation.ask(message, maxNewTokens: tokens)
            var ids: [Int] = []
            while let token = try await answer.next() { ids.append(token.id) }
            return ids
        }

        /// Tells it the code, and then so much that nothing of it is seen but what is pinned.
        func tell(_ messages: String...) async throws {
            for message in messages { try await say(message) }
            for number in 0..<6 { try await say("Sentence \(number) is about the weather, which was mild today.") }
        }

        /// What is pinned, as text.
        func pinned() async throws -> String {
            let rows = try await session.pinnedRows()
            let keys = try #require(rows.rows.first { $0.name == "key_0" })
            let ids = keys.floats(block: 0, rows: Array(0..<rows.sinks)).chunked(by: 32).map { Int($0[0]) - 1 }
            return try byteTokenizer().decode(ids)
        }
    }

    /// The first bytes of a stream, then a text as often as it goes, the first time cut at its beginning.
    private static func expected(_ text: String, sinks: Int = 132, first: String = "user") -> String {
        let room = sinks - first.utf8.count
        return first + String(repeating: text, count: room / text.utf8.count + 1).suffix(room)
    }

    @Test func theyAreOthersForOneAnswerAndThenAsTheyWere() async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"))
        try await talk.say(Self.shed)
        #expect(await talk.session.status.ring.sinks == 4 + 128)
        try await talk.tell()
        let (before, state) = (try await talk.session.pinnedRows(), await talk.backend.state())
        let position = await talk.session.position
        let answer = try await talk.conversation.ask(Self.question, maxNewTokens: 3)
        #expect(await talk.session.position == position)
        #expect(try await talk.pinned() == Self.expected(Self.shed + "\n"))
        for (after, before) in zip(await talk.backend.state(), state) {
            let rows = Array(132..<after.shape[2])
            #expect(after.floats(block: 0, rows: rows) == before.floats(block: 0, rows: rows))
        }
        for _ in 0..<2 {
            _ = try await answer.next()
            #expect(try await talk.pinned() == Self.expected(Self.shed + "\n"))
        }
        _ = try await answer.next()
        #expect(try await talk.session.pinnedRows() == before)
        #expect(await talk.session.position == position + "\nuser: \(Self.question)\nassistant:".utf8.count + 2)
        let recall = try #require(await talk.memory.recalled)
        #expect(recall.way == .pinned && recall.found.map(\.passage.text) == [Self.shed])
        #expect(try await talk.memory.newest(9).filter { $0.text == Self.question }.count == 1)
        #expect(await talk.memory.trouble == "")
    }

    @Test func theAnswerIsThatOfAStreamThatHasThemPinned() async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"))
        try await talk.tell(Self.shed)
        try await talk.conversation.save(to: folder.file("told"))
        let made = try await talk.say(Self.question, 5)
        let manifest = talk.session.manifest
        let session = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest))
        try await session.restore(from: folder.file("told"))
        _ = try await session.repin(Self.expected("\(Self.shed)\n").utf8.map { Int($0) })
        let turn = "\nuser: \(Self.question)\nassistant:".utf8.map { Int($0) }
        var ids: [Int] = []
        for try await token in try await session.generate(turn, tokenizer: byteTokenizer(), maxNewTokens: 5) {
            ids.append(token.id)
        }
        #expect(made == ids)
    }

    enum Ending: String, CaseIterable {
        case over, anotherMessage, saved, reset, restored, settled, closed, switchedOff, cancelled, failed
    }

    @Test(arguments: Ending.allCases) func theyArePutBackHoweverAnAnswerEnds(_ ending: Ending) async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"))
        let (conversation, file) = (talk.conversation, folder.file("talk"))
        try await talk.tell(Self.shed)
        try await conversation.save(to: file)
        let before = try await talk.session.pinnedRows()
        let answer = try await conversation.ask(Self.question, maxNewTokens: 4)
        _ = try await answer.next()
        let pinned = try await talk.session.pinnedRows()
        #expect(pinned != before)
        switch ending {
        case .over: while try await answer.next() != nil {}
        case .anotherMessage: try await talk.say("Fine weather, is it not, and the sun is out?", 1)
        case .saved:
            try await conversation.save(to: file)
            let manifest = talk.session.manifest
            let other = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest))
            try await other.restore(from: file)
            #expect(try await other.pinnedRows() == before)
            #expect(await other.position == talk.session.position)
        case .reset:
            try await conversation.reset(system: nil)
            #expect(await talk.session.position == 0)
            let left = try await PinnedRows(of: talk.backend, talk.session.manifest, sinks: 132)
            #expect(left == before, "which a reset does not clear")
            return
        case .restored: try await conversation.restore(from: file)
        case .settled: await conversation.settle()
        case .closed: await talk.memory.close()
        case .switchedOff: await conversation.remember(with: nil)
        case .cancelled:
            let task = Task {
                try? await Task.sleep(for: .seconds(9))
                return try await answer.next()
            }
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
        case .failed:
            await talk.backend.failAt(position: talk.session.position)
            await #expect(throws: ToyBackend.Failed.self) { try await answer.next() }
        }
        #expect(try await talk.session.pinnedRows() == before)
    }

    @Test func anAnswerThatCannotBeginLeavesThemAsTheyWere() async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"))
        try await talk.tell(Self.shed)
        let before = try await talk.session.pinnedRows()
        await #expect(throws: EdgesinkError.self) {
            try await talk.conversation.ask(Self.question, maxNewTokens: -1)
        }
        #expect(await talk.memory.recalled?.way == .pinned)
        #expect(try await talk.session.pinnedRows() == before)
        _ = try await talk.conversation.ask(Self.question)  // of which nothing is read
        #expect(try await talk.session.pinnedRows() != before)
        await talk.conversation.settle()
        #expect(try await talk.session.pinnedRows() == before)
        #expect(try await talk.memory.newest(9).allSatisfy { $0.text != Self.question })
    }

    @Test func anAnswerThatAnotherTookThePlaceOfEndsNothing() async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"))
        try await talk.tell(Self.shed)
        let before = try await talk.session.pinnedRows()
        let old = try await talk.conversation.ask("And who is there?", maxNewTokens: 2)
        _ = try await old.next()
        let new = try await talk.conversation.ask(Self.question, maxNewTokens: 2)
        let pinned = try await talk.session.pinnedRows()
        #expect(pinned != before)
        while try await old.next() != nil {}
        #expect(try await talk.session.pinnedRows() == pinned)
        while try await new.next() != nil {}
        #expect(try await talk.session.pinnedRows() == before)
    }

    @Test func nothingIsSavedWhileAMessageIsBroughtIn() async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"), delay: .milliseconds(2))
        try await talk.tell(Self.shed)
        let (conversation, runs) = (talk.conversation, await talk.backend.runs)
        let asking = Task { try await conversation.ask(Self.question) }
        while await talk.backend.runs == runs { try await Task.sleep(for: .milliseconds(1)) }
        let file = folder.file("talk")
        let error = await #expect(throws: EdgesinkError.self) { try await conversation.save(to: file) }
        #expect(error?.found == "another message is being read", "not left to the stream, which is free in between")
        _ = try await asking.value
        try await conversation.save(to: file)
        #expect(try await talk.pinned().hasPrefix("user: \(Self.shed)"))
    }

    @Test func aStreamThatBeganAnewBehindItsBackKeepsItsOwn() async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"))
        try await talk.tell(Self.shed)
        _ = try await talk.conversation.ask(Self.question)
        try await talk.session.reset()
        _ = try await talk.session.feed(Array(0..<200))
        let state = await talk.backend.state()
        await talk.conversation.settle()
        #expect(await talk.backend.state() == state)
        #expect(await !talk.memory.isOff)
    }

    // MARK: - Where it cannot pin, it quotes

    @Test(arguments: [4, 16, 35]) func aBundleThatCannotPinEnoughQuotes(maxSinks: Int) async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"), maxSinks: maxSinks)
        try await talk.tell(Self.shed)
        #expect(await talk.session.status.ring.sinks == 4)
        let fed = try await talk.memory.around(Self.question, in: talk.conversation)
        #expect(fed == "\(Self.question) (I told you: \(Self.shed))")
        #expect(await talk.memory.recalled?.way == .quoted)
    }

    @Test func aPassageLongerThanTheRowsIsQuoted() async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"), maxSinks: 4 + Self.shed.utf8.count)  // and a line break
        try await talk.tell(Self.shed)
        #expect(await talk.session.status.ring.sinks == 4 + Self.shed.utf8.count)
        let before = try await talk.session.pinnedRows()
        let fed = try await talk.memory.around(Self.question, in: talk.conversation)
        #expect(fed == "\(Self.question) (I told you: \(Self.shed))")
        #expect(await talk.memory.recalled?.way == .quoted)
        #expect(try await talk.session.pinnedRows() == before)
    }

    @Test func aStreamThatBeganWithoutRowsForItQuotes() async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"), way: .quoted)
        try await talk.tell(Self.shed)
        #expect(await talk.session.status.ring.sinks == 4)
        await talk.memory.close()
        let memory = try Memory(folder.file("talk.memory"), way: .pinned)
        await talk.conversation.remember(with: memory)
        let fed = try await memory.around(Self.question, in: talk.conversation)
        #expect(fed == "\(Self.question) (I told you: \(Self.shed))")
        #expect(await memory.recalled?.way == .quoted)
        #expect(await talk.session.status.ring.sinks == 4)
    }

    @Test func aResumedStreamPinsBehindItsTrueFirstTokens() async throws {
        let folder = try TemporaryFolder()
        do {
            let talk = try Talk(folder.file("talk.memory"), sinkToken: 7)
            try await talk.tell(Self.shed)
            try await talk.conversation.save(to: folder.file("talk"))
            await talk.memory.close()
        }
        let talk = try Talk(folder.file("talk.memory"), sinkToken: 7)
        try await talk.conversation.restore(from: folder.file("talk"))
        let fed = try await talk.memory.around(Self.question, in: talk.conversation)
        #expect(fed == Self.question)
        #expect(try await talk.pinned() == Self.expected(Self.shed + "\n", first: "\u{7}use"))
        await talk.memory.putBack()
        #expect(try await talk.pinned().hasPrefix("\u{7}user: \(Self.shed)"))
    }

    @Test func aResumedStreamWhoseFirstTokensNobodyKnowsQuotes() async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"), sinkToken: 7)
        try await talk.tell("Hello.")
        try await talk.conversation.save(to: folder.file("talk"))
        let archive = try Archive(folder.file("other.memory"))
        let stream = try archive.beginStream(fingerprint: "another bundle")
        try archive.add(stream: stream, role: .user, [NewPassage(first: 0, last: 9, text: Self.shed)])
        archive.close()
        let other = try Talk(folder.file("other.memory"), sinkToken: 7)
        try await other.conversation.restore(from: folder.file("talk"))
        let fed = try await other.memory.around(Self.question, in: other.conversation)
        #expect(fed == "\(Self.question) (I told you: \(Self.shed))")
        #expect(await other.memory.recalled?.way == .quoted)
        #expect(await !other.memory.isOff)
    }

    // MARK: - What comes along, and trouble

    @Test func anInstructionIsPinnedInFrontOfThePassage() async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"))
        let wish = "From now on, answer in Latin."
        try await talk.tell(wish, Self.shed)
        let answer = try await talk.conversation.ask(Self.question, maxNewTokens: 1)
        #expect(try await talk.pinned() == Self.expected("\(wish)\n\(Self.shed)\n"))
        let recall = try #require(await talk.memory.recalled)
        #expect(recall.wishes.map(\.text) == [wish] && recall.found.map(\.passage.text) == [Self.shed])
        while try await answer.next() != nil {}
        try await talk.say("Good morning to you, and a good day.", 1)
        #expect(await talk.memory.recalled?.wishes.map(\.text) == [wish], "with every message")
        #expect(await talk.memory.recalled?.way == .pinned)
    }

    @Test func aConversationThatNothingCameBackInIsThatOfAStreamWithSoManySinks() async throws {
        let folder = try TemporaryFolder()
        let talk = try Talk(folder.file("talk.memory"))
        let manifest = talk.session.manifest
        let session = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest), sinks: 132)
        let plain = try Conversation(session: session, tokenizer: byteTokenizer())
        for message in [Self.shed, "Hello.", "Fine weather.", "Is it?", "So it is.", "And the roses?"] {
            let answer = try await plain.ask(message, maxNewTokens: 20)
            var ids: [Int] = []
            while let token = try await answer.next() { ids.append(token.id) }
            if message == "Is it?" { await talk.memory.close() }  // trouble from now on
            #expect(try await talk.say(message, 20) == ids)
        }
        #expect(await talk.memory.trouble.hasPrefix("the memory is off: "))
    }
}

extension [Float] {
    fileprivate func chunked(by size: Int) -> [[Float]] {
        stride(from: 0, to: count, by: size).map { Array(self[$0..<Swift.min($0 + size, count)]) }
    }
}
