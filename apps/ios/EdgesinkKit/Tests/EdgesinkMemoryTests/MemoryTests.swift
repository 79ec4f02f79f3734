import EdgesinkCore
import Foundation
import TestSupport
import Testing

@testable import EdgesinkMemory

/// Tokens of the toy are bytes, and it sees few of them.
@Suite("A conversation with a memory over the toy")
struct MemoryTests {
    private static let shed = "The code of the garden shed is 4471."
    private static let question = "What is the code of the garden shed?"
    private static let quoted = "\(question) (I told you: \(shed))"

    private static func conversation(_ memory: Memory?, eos: [Int] = [], window: Int = 120) throws -> Conversation {
        let manifest = try toyManifest(eos: eos, window: window)
        let session = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest))
        return try Conversation(session: session, tokenizer: byteTokenizer(), memory: memory)
    }

    /// Says something and has an answer of so many tokens.
    private static func say(_ message: String, _ conversation: Conversation, _ tokens: Int = 3) async throws -> [Int] {
        let answer = try await conversation.ask(message, maxNewTokens: tokens)
        var ids: [Int] = []
        while let token = try await answer.next() { ids.append(token.id) }
        return ids
    }

    /// Enough of it that what was said before is evicted.
    private static func smallTalk(_ conversation: Conversation, _ numbers: Range<Int> = 0..<4) async throws {
        for number in numbers {
            _ = try await say("Sentence \(number) is about the weather, which was mild today.", conversation, 0)
        }
    }

    /// The text that is fed for a message.
    private static func fed(_ message: String, _ memory: Memory, _ conversation: Conversation) async throws -> String {
        try await memory.around(message, in: conversation)
    }

    private static func texts(_ memory: Memory, _ role: Role = .user) async throws -> [String] {
        try await memory.newest(1000).reversed().filter { $0.role == role }.map(\.text)
    }

    @Test func whatIsStillSeenIsNotBroughtBack() async throws {
        let folder = try TemporaryFolder()
        let memory = try Memory(folder.file("talk.memory"))
        let conversation = try Self.conversation(memory, window: 400)
        _ = try await Self.say(Self.shed, conversation)
        #expect(try await Self.fed(Self.question, memory, conversation) == Self.question)
        #expect(await memory.recalled == nil)
    }

    @Test func whatWasEvictedComesBackAsAQuotationWhichIsNotKeptAgain() async throws {
        let folder = try TemporaryFolder()
        let memory = try Memory(folder.file("talk.memory"))
        let conversation = try Self.conversation(memory, window: 250)
        _ = try await Self.say(Self.shed, conversation)
        try await Self.smallTalk(conversation)
        let before = await conversation.session.position
        _ = try await Self.say(Self.question, conversation, 1)
        let turn = "\nuser: \(Self.quoted)\nassistant:"
        #expect(await conversation.session.position == before + turn.utf8.count)
        #expect(await memory.recalled?.found.map(\.passage.text) == [Self.shed])
        #expect(await memory.recalled?.found.map(\.way) == [.words])
        #expect(try await Self.texts(memory).filter { $0.contains("4471") } == [Self.shed])
        #expect(try await Self.texts(memory).last == Self.question)
        #expect(try await Self.fed(Self.question, memory, conversation) == Self.question, "the quotation is seen")
    }

    @Test func passagesStandWhereTheStreamHasTheirTokens() async throws {
        let folder = try TemporaryFolder()
        let memory = try Memory(folder.file("talk.memory"))
        let conversation = try Self.conversation(memory)
        let ids = try await Self.say("  Anna lives in Oslo, Ærø is far. ", conversation, 30)
        let kept = try await memory.newest(9).reversed().map { $0 }
        #expect(kept[0].text == "Anna lives in Oslo, Ærø is far.")
        #expect(kept[0].first == "user: ".utf8.count && kept[0].last == "user: ".utf8.count + kept[0].text.utf8.count)
        let answer = try byteTokenizer().decode(ids)
        #expect(kept.dropFirst().allSatisfy { $0.role == .assistant && answer.contains($0.text) })
        #expect(kept.count > 1)
    }

    @Test func anAnswerThatWasStoppedIsRememberedAsFarAsItWent() async throws {
        let folder = try TemporaryFolder()
        let memory = try Memory(folder.file("talk.memory"))
        let conversation = try Self.conversation(memory)
        let answer = try await conversation.ask(Self.shed)
        for _ in 0..<40 { _ = try await answer.next() }
        #expect(try await memory.count == 0, "nobody knows yet that it was stopped")
        try await conversation.save(to: folder.file("talk"))
        #expect(try await Self.texts(memory) == [Self.shed])
        #expect(try await memory.count > 1)
        _ = try await conversation.ask("Nothing of this is read.")
        await conversation.settle()
        #expect(try await Self.texts(memory) == [Self.shed])
    }

    @Test func aStandingInstructionComesBackWhateverIsTalkedAbout() async throws {
        let folder = try TemporaryFolder()
        let memory = try Memory(folder.file("talk.memory"))
        let conversation = try Self.conversation(memory)
        _ = try await Self.say("From now on, answer in Latin.", conversation, 0)
        #expect(try await Self.fed("Hello again.", memory, conversation) == "Hello again.", "it is still seen")
        let next = "An umbrella hangs on every door."
        let wish = "What I want from now on: “From now on, answer in Latin.”"
        _ = try await Self.say("Nothing more was said for a while, and then for another while.", conversation, 0)
        #expect(try await Self.fed(next, memory, conversation) == "\(wish)\n\n\(next)")
        let recalled = try #require(await memory.recalled)
        #expect(recalled.wishes.map(\.text) == ["From now on, answer in Latin."])
        #expect(recalled.found.isEmpty)
        try await memory.forget([recalled.wishes[0].id])
        try await Self.smallTalk(conversation)
        #expect(try await Self.fed("Hello again.", memory, conversation) == "Hello again.")
    }

    @Test func aNewerTellingTakesThePlaceOfAnOlder() async throws {
        let folder = try TemporaryFolder()
        let memory = try Memory(folder.file("talk.memory"))
        let conversation = try Self.conversation(memory)
        _ = try await Self.say("My cousin Ilse lives in Bergen.", conversation, 0)
        try await Self.smallTalk(conversation, 0..<6)
        _ = try await Self.say("My cousin Ilse has moved to Porto by now.", conversation, 0)
        try await Self.smallTalk(conversation, 6..<18)
        let fed = try await Self.fed("Where does my cousin Ilse live?", memory, conversation)
        #expect(fed.contains("Porto") && !fed.contains("Bergen"))
    }

    @Test func toldInOneSessionAndAskedInTheNext() async throws {
        let folder = try TemporaryFolder()
        do {
            let memory = try Memory(folder.file("talk.memory"))
            let conversation = try Self.conversation(memory, window: 400)
            _ = try await Self.say(Self.shed, conversation)
            try await conversation.save(to: folder.file("monday"))
            _ = try await Self.say("Lost with the process: the attic has mice.", conversation)
            await memory.close()
        }
        do {
            let memory = try Memory(folder.file("talk.memory"))
            let conversation = try Self.conversation(memory, window: 400)
            try await conversation.restore(from: folder.file("monday"))
            let fed = try await Self.fed("Does the attic have mice?", memory, conversation)
            #expect(fed.contains("the attic has mice.)"))
            #expect(try await Self.fed(Self.question, memory, conversation) == Self.question, "still seen")
            await memory.close()
        }
        let memory = try Memory(folder.file("talk.memory"))
        let conversation = try Self.conversation(memory, window: 400)
        #expect(try await Self.fed(Self.question, memory, conversation) == Self.quoted, "a new conversation")
    }

    @Test func itCanBeSwitchedOffAndOnAgain() async throws {
        let folder = try TemporaryFolder()
        let memory = try Memory(folder.file("talk.memory"))
        let conversation = try Self.conversation(memory)
        _ = try await Self.say(Self.shed, conversation)
        await conversation.remember(with: nil)
        _ = try await Self.say("My secret is a xylophone.", conversation)
        await conversation.remember(with: memory)
        try await Self.smallTalk(conversation)
        #expect(try await !Self.texts(memory).contains("My secret is a xylophone."))
        #expect(try await Self.fed(Self.question, memory, conversation) == Self.quoted)
    }

    @Test func theAnswersOfAConversationThatNothingCameBackInAreThoseWithoutAMemory() async throws {
        let folder = try TemporaryFolder()
        let memory = try Memory(folder.file("talk.memory"))
        let (with, plain) = (try Self.conversation(memory, eos: [0]), try Self.conversation(nil, eos: [0]))
        for message in ["Hello.", "Fine weather.", "Is it?", "So it is."] {
            #expect(try await Self.say(message, with, 20) == Self.say(message, plain, 20))
        }
    }

    @Test func troubleWithTheArchiveEndsTheMemoryAndNotTheConversation() async throws {
        let folder = try TemporaryFolder()
        let memory = try Memory(folder.file("talk.memory"))
        let (with, plain) = (try Self.conversation(memory), try Self.conversation(nil))
        #expect(try await Self.say(Self.shed, with) == Self.say(Self.shed, plain))
        await memory.close()
        #expect(try await Self.say("Hello.", with) == Self.say("Hello.", plain))
        #expect(await memory.isOff)
        #expect(await memory.trouble.hasPrefix("the memory is off: "))
        #expect(try await Self.say("Hello again.", with) == Self.say("Hello again.", plain))
    }

    @Test func aDamagedFileIsSetAsideAndANewMemoryBegins() async throws {
        let folder = try TemporaryFolder()
        try Data(String(repeating: "not a database", count: 100).utf8).write(to: folder.file("talk.memory"))
        let memory = try Memory(folder.file("talk.memory"))
        #expect(await memory.trouble.contains("it is now talk.memory.damaged-1, and a new memory was begun"))
        #expect(try await memory.count == 0)
        #expect(await !memory.isOff)
        let later = try Archive(folder.file("later"))
        _ = try later.reading { try $0.run("PRAGMA user_version = 9") }
        later.close()
        #expect(throws: EdgesinkError.self) { try Memory(folder.file("later")) }
        #expect(FileManager.default.fileExists(atPath: folder.file("later").path), "it is not set aside")
    }

    // MARK: - With a calibration

    private static func calibration(passes: Bool = true, layer: Int = 0) -> Calibration {
        let zeros = [Float](repeating: 0, count: 32)
        let threshold = passes ? -9.0 : 9.0
        return Calibration(
            name: "toy", numbers: .init(layer: layer, gateLayer: 0, asks: threshold, isQuestion: threshold, least: -1),
            mean: zeros, scale: zeros.map { _ in 1 }, gateMean: zeros, gate: Rows(width: 32, zeros + zeros),
            gateOffset: [0, 0])
    }

    @Test func lookingForMeaningsLeavesTheStreamAsItWas() async throws {
        let folder = try TemporaryFolder()
        let memory = try Memory(folder.file("talk.memory"), calibration: Self.calibration(passes: false))
        let (with, plain) = (try Self.conversation(memory), try Self.conversation(nil))
        for message in ["Hello there.", Self.shed] + (0..<12).map({ "Sentence \($0) about the weather of today." }) {
            #expect(try await Self.say(message, with, 5) == Self.say(message, plain, 5))
        }
        #expect(await with.session.position == plain.session.position)
        #expect(await memory.trouble == "")
        let archive = try Archive(folder.file("talk.memory"), make: false)
        let vectors = try archive.reading { try $0.int("SELECT count(*) FROM vectors") }
        #expect(try vectors > 14 && vectors <= archive.count)
    }

    @Test func theSameWordsHaveTheSameValuesAndAreFoundByThem() async throws {
        let folder = try TemporaryFolder()
        let memory = try Memory(folder.file("talk.memory"), calibration: Self.calibration())
        let conversation = try Self.conversation(memory)
        _ = try await Self.say("xy quart.", conversation, 0)
        try await Self.smallTalk(conversation)
        // No word of the archive: found by the values of its letters, of which a chunk is fed.
        _ = try await Self.fed("xyquart?", memory, conversation)
        let first = try #require(await memory.recalled?.found.first)
        #expect(first.passage.text == "xy quart.")
        #expect(first.way == .meaning)
    }

    @Test func aCalibrationThatIsNotUnderstoodIsRefusedByName() throws {
        let folder = try TemporaryFolder()
        let manifest = try toyManifest()
        let numbers = [
            "layer": "1", "gate_layer": "0", "asks": "0.5", "is_question": "0.5", "least": "0.5", "found": "0.5",
            "passed": "0.5",
        ]
        func refusal(_ changes: [String: String] = [:], width: Int = 32, name: String? = nil) throws -> String {
            let kept = numbers.merging(changes) { $1 }.map { "\"\($0.key)\": \($0.value)" }.joined(separator: ", ")
            func tensor(_ name: String, _ shape: [Int]) -> StateTensor {
                let numbers = [Float](repeating: 0.5, count: shape.reduce(1, *))
                return StateTensor(
                    name: name, dtype: .float32, shape: shape, bytes: numbers.withUnsafeBytes { Data($0) })
            }
            let tensors = [
                tensor("mean", [width]), tensor("scale", [32]), tensor("gate_mean", [32]), tensor("gate", [2, 32]),
                tensor("gate_offset", [2]),
            ]
            let header = [
                ("edgesink_memory", "1"), ("name", name ?? "\(manifest.fingerprint.prefix(16)):0"),
                ("numbers", "{\(kept)}"),
            ]
            try SafeTensors.encoded(tensors, header).write(to: folder.file("made"))
            do {
                let made = try Calibration(reading: folder.file("made"), of: manifest)
                return "layer \(made.numbers.layer), \(made.mean.count)"
            } catch { return "\(error)" }
        }
        #expect(try refusal() == "layer 1, 32")
        #expect(try refusal(width: 31).contains("mean has shape [31], not [32]"))
        #expect(try refusal(name: "another:0").contains("it is of another bundle: 'another:0'"))
        #expect(try refusal(["layer": "1.0"]).contains("layer is 1.0, not a whole number"))
        #expect(try refusal(["layer": "9"]).contains("layer 9 is no layer of the model"))
        #expect(try refusal(["gate_layer": "9"]).contains("gate_layer 9 is no layer of the model"))
        #expect(try refusal(["asks": "true"]).contains("asks is True, not a number"))
        #expect(try refusal(["more": "1"]).contains("the unknown number 'more'"))
    }
}
