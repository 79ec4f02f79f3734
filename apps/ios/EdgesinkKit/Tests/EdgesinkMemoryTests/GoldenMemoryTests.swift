import Foundation
import TestSupport
import Testing

@testable import EdgesinkCore
@testable import EdgesinkMemory

/// What Python made of `tests/golden/memory/python.memory` (`make_golden_memory.py`).
@Suite("A memory that Python wrote, and what Python finds in it")
struct GoldenMemoryTests {
    private static let answers = Result { try Golden.json("memory/answers.json") }

    private static func list(_ name: String) throws -> [JSON] {
        let items = try Golden.list(answers.get()[name])
        try #require(items.count > 2)
        return items
    }

    /// A copy of the golden archive: an open one writes beside itself.
    private static func archive(_ folder: borrowing TemporaryFolder) throws -> Archive {
        let file = folder.file("python.memory")
        try FileManager.default.copyItem(at: Golden.folder.appending(path: "memory/python.memory"), to: file)
        return try Archive(file, make: false)
    }

    private static func tokenizer() throws -> Tokenizer {
        try Tokenizer(json: Data((Golden.json("tokenizer/gpt2.json")["tokenizer"] ?? .null).text.utf8))
    }

    private static func rows(_ json: JSON?) throws -> Rows {
        let rows = Golden.list(json).map { floats($0) }
        return Rows(width: try #require(rows.first?.count), rows.flatMap { $0 })
    }

    private static func floats(_ json: JSON?) -> [Float] { Golden.list(json).compactMap(\.double).map { Float($0) } }

    @Test func hasEveryPassage() throws {
        let folder = try TemporaryFolder()
        let archive = try Self.archive(folder)
        try archive.check()
        var found: [String] = []
        try archive.export { one in
            let place = "\(one.first.map(String.init) ?? "nil") \(one.last.map(String.init) ?? "nil")"
            found.append("\(one.id) \(one.stream) \(place) \(one.role) \(one.said) \(one.isStanding) \(one.text)")
        }
        let expected = try Self.list("passages").map { json in
            let fields = Golden.list(json)
            let place = "\(fields[2].int.map(String.init) ?? "nil") \(fields[3].int.map(String.init) ?? "nil")"
            return "\(fields[0].int ?? 0) \(fields[1].int ?? 0) \(place) \(fields[4].string ?? "") "
                + "\(fields[5].double ?? 0) \(fields[6].bool ?? false) \(fields[7].string ?? "")"
        }
        #expect(found == expected)
        archive.close()
    }

    @Test func cutsWhereItDoes() throws {
        for json in try Self.list("cuts") {
            let text = Scalars(try #require(json["text"]?.string))
            let size = try #require(json["token"]?.int)
            let ends = stride(from: size, to: text.count + size, by: size).map { min($0, text.count) }
            let found = PassageCutter(text: text, ends: ends).cut().map { [$0.start, $0.end, $0.first, $0.last] }
            #expect(found == Golden.list(json["cuts"]).map(Golden.ints), "\(String(text).debugDescription)")
        }
    }

    @Test func knowsTheSameWords() throws {
        let common = try Set(Self.list("common").compactMap(\.string).map { Scalars($0) })
        #expect(Words.common == common)
        for json in try Self.list("words") {
            let text = Scalars(try #require(json["text"]?.string))
            let spans = Words.spans(of: text).map { "\($0.start) \($0.end) \(Array($0.word.map(\.value)))" }
            let expected = Golden.list(json["spans"]).map { span -> String in
                let fields = Golden.list(span)
                let word = (fields[2].string ?? "").unicodeScalars.map(\.value)
                return "\(fields[0].int ?? 0) \(fields[1].int ?? 0) \(word)"
            }
            #expect(spans == expected, "\(String(text).debugDescription)")
            let content = Golden.list(json["content"]).compactMap(\.string).map { Scalars($0) }
            #expect(Words.content(of: text) == content)
        }
    }

    @Test func recognisesTheSameInstructionsAndQuestions() throws {
        for json in try Self.list("standing") {
            let text = try #require(json.array?[0].string)
            #expect(Standing.isStanding(Scalars(text)) == json.array?[1].bool, "\(text.debugDescription)")
        }
        for json in try Self.list("questions") {
            let text = try #require(json.array?[0].string)
            #expect(Search.isQuestion(Scalars(text)) == json.array?[1].bool, "\(text.debugDescription)")
        }
        for json in try Self.list("leaning") {
            let text = try #require(json.array?[0].string)
            #expect(Context.leans(Scalars(text)) == json.array?[1].bool, "\(text.debugDescription)")
        }
    }

    @Test func knowsWhichWordATokenIsPartOf() throws {
        let tokenizer = try Self.tokenizer()
        for json in try Self.list("spoken") {
            let spoken = Spoken(Golden.ints(json["ids"]), tokenizer)
            #expect(String(spoken.text) == json["text"]?.string)
            #expect(spoken.ends == Golden.ints(json["ends"]))
            #expect(spoken.words().map { String($0) } == Golden.list(json["words"]).compactMap(\.string))
        }
    }

    private static func shown(_ found: [Found]) -> [String] {
        found.map { "\($0.passage.id) \(shown($0.score)) \($0.way)" }
    }

    private static func shown(_ json: JSON?) -> [String] {
        Golden.list(json).map { one in
            let fields = Golden.list(one)
            return "\(fields[0].int ?? 0) \(shown(fields[1].double ?? -1)) \(fields[2].string ?? "")"
        }
    }

    private static func shown(_ score: Double) -> String { "\((score * 1e4).rounded() / 1e4)" }

    @Test func findsTheSamePassagesByWords() throws {
        let folder = try TemporaryFolder()
        let archive = try Self.archive(folder)
        for json in try Self.list("searches") {
            let message = try #require(json["message"]?.string)
            let search = Search(
                archive: archive, stream: try #require(json["stream"]?.int),
                seenFrom: try #require(json["seen_from"]?.int), count: try #require(json["count"]?.int))
            let found = try search.search(message)
            #expect(Self.shown(found) == Self.shown(json["found"]), "\(message)")
            let rarity = try archive.reading { try Words.rarity(of: Words.content(of: Scalars(message)), $0) }
            let expected = Golden.list(json["rarity"]).map { Golden.list($0) }
            #expect(rarity.words.map { String($0) } == expected.compactMap { $0[0].string })
            for (value, fields) in zip(rarity.values, expected) {
                #expect(abs(value - (fields[1].double ?? -1)) < 1e-9)
            }
        }
        archive.close()
    }

    private static func calibration() throws -> Calibration {
        let json = try answers.get()["calibration"] ?? .null
        func number(_ name: String) throws -> Double { try #require(json[name]?.double) }
        return Calibration(
            name: try #require(json["name"]?.string),
            numbers: .init(
                layer: 1, gateLayer: 0, asks: try number("asks"), isQuestion: try number("is_question"),
                least: try number("least")),
            mean: floats(json["mean"]), scale: floats(json["scale"]), gateMean: floats(json["gate_mean"]),
            gate: try rows(json["gate"]), gateOffset: floats(json["gate_offset"]))
    }

    @Test func makesTheSameVectorsOfRows() throws {
        let json = try Self.answers.get()["calibration"] ?? .null
        let packed = try Self.calibration().packed(Self.rows(json["rows"]))
        #expect(packed.tokens.map(Int.init) == Golden.list(json["tokens"]).flatMap(Golden.ints))
        #expect(packed.mean.map(Int.init) == Golden.ints(json["packed"]))
    }

    @Test func findsTheSamePassagesByMeaning() async throws {
        let folder = try TemporaryFolder()
        let archive = try Self.archive(folder)
        let calibration = try Self.calibration()
        var (ways, judgements) = (Set<String>(), 0)
        for json in try Self.list("meanings") {
            let message = try #require(json["message"]?.string)
            let fed = AsFed(
                words: Golden.list(json["words"]).compactMap(\.string).map { Scalars($0) },
                rows: try Self.rows(json["rows"]), gateRows: try Self.rows(json["gate_rows"]))
            for (wanted, value) in zip(calibration.wants(fed.gateRows), Self.floats(json["wants"])) {
                #expect(abs(wanted - value) < 1e-4)
            }
            let alike = try archive.reading { database in
                let rarity = try Words.rarity(of: Words.content(of: Scalars(message)), database)
                return try Likeness.search(
                    calibration.vectors(fed.rows), weights: Spoken.weights(of: fed.words, rarity),
                    space: calibration.name, count: 5, database)
            }
            let expected = Golden.list(json["alike"]).map { Golden.list($0) }
            #expect(alike.map(\.passage) == expected.compactMap { $0[0].int }, "\(message)")
            for (hit, fields) in zip(alike, expected) { #expect(abs(hit.score - (fields[1].double ?? -1)) < 1e-4) }
            let search = Search(archive: archive, stream: 1, seenFrom: 1_000_000, count: 3)
            let found = try search.search(message, calibration, fed)
            #expect(Self.shown(found) == Self.shown(json["found"]), "\(message)")
            ways.formUnion(found.map(\.way.rawValue))
            let gains = Golden.list(json["gains"]).compactMap(\.double)
            var judged: [String] = []
            let best = try await search.search(
                message, calibration, fed,
                by: { passage in
                    judged.append(passage)
                    return gains[passage.unicodeScalars.count % gains.count]
                })
            #expect(judged == Golden.list(json["judged"]).compactMap(\.string), "\(message)")
            #expect(Self.shown(best) == Self.shown(json["best"]), "\(message)")
            judgements += judged.count
        }
        #expect(ways == ["words", "meaning"])
        #expect(judgements > 20)
        archive.close()
    }

    @Test func quotesInTheSameWords() throws {
        let folder = try TemporaryFolder()
        let archive = try Self.archive(folder)
        let tokenizer = try Self.tokenizer()
        let wishes = try archive.standing()
        #expect(wishes.count == 2)
        for json in try Self.list("quotations") {
            let ids = Golden.ints(json["found"])
            let passages = try archive.get(ids)
            let budget = try #require(json["budget"]?.int)
            let (kept, told) = Quotation.fitting(
                wishes: wishes, found: ids.compactMap { passages[$0] }, budget: budget, tokenizer)
            let quote = Quotation.text(of: "Where is it?", wishes: kept, found: told)
            #expect(quote == json["text"]?.string)
        }
        archive.close()
    }

    @Test func pinsTheSameIds() throws {
        let folder = try TemporaryFolder()
        let archive = try Self.archive(folder)
        let tokenizer = try Self.tokenizer()
        let refused = try #require(Self.answers.get()["refused"]?.string)
        var pinned = 0
        for json in try Self.list("pinned") {
            let (wishes, found) = (Golden.ints(json["wishes"]), Golden.ints(json["found"]))
            let passages = try archive.get(wishes + found)
            let (ids, brought) = try PinnedPassages.ids(
                first: Golden.ints(json["first"]), wishes: wishes.compactMap { passages[$0] },
                found: found.compactMap { passages[$0] }, sinks: try #require(json["sinks"]?.int)
            ) { text in
                if text.contains(refused) { throw EdgesinkError(.badOption, "a control token in a message") }
                return tokenizer.encode(text)
            }
            #expect(ids == Golden.ints(json["ids"]))
            #expect(brought.map(\.id) == Golden.ints(json["brought"]))
            pinned += ids.isEmpty ? 0 : 1
        }
        #expect(pinned > 20)
        #expect(throws: CancellationError.self, "another error is not a passage that cannot be encoded") {
            let passage = try #require(try archive.newest(1).first)
            return try PinnedPassages.ids(first: [], wishes: [], found: [passage], sinks: 99) { _ in
                throw CancellationError()
            }
        }
        archive.close()
    }

    @Test(arguments: [(4, 132, 132), (4, 500, 132), (4, 100, 100), (4, 36, 36), (4, 35, 4), (4, 4, 4), (0, 32, 32)])
    func reservesAsManyRowsAsThereAre(own: Int, most: Int, expected: Int) {
        #expect(PinnedPassages.sinks(own: own, most: most) == expected)
    }
}
