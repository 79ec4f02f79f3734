import Foundation
import TestSupport
import Testing

@testable import EdgesinkCore

@Suite("Turns against tests/golden/chat.json: the ids that Python makes of them, and its words of refusal")
struct TurnTests {
    private static let now: Date = {
        var parts = DateComponents()
        (parts.year, parts.month, parts.day) = (2026, 3, 5)
        (parts.hour, parts.minute, parts.second) = (14, 7, 9)
        return Calendar(identifier: .gregorian).date(from: parts) ?? .distantPast
    }()

    private static func tokenizer(_ kind: JSON) throws -> Tokenizer {
        let golden = try Golden.json("tokenizer/\(kind["tokenizer"]?.string ?? "").json")
        guard case .object(var fields)? = golden["tokenizer"] else { throw CancellationError() }
        fields.removeAll { $0.key == "added_tokens" }
        fields.append(("added_tokens", kind["added_tokens"] ?? .null))
        return try Tokenizer(json: Data(JSON.object(fields).text.utf8))
    }

    @Test func haveTheIdsThatPythonMakes() throws {
        let kinds = Golden.list(try Golden.json("chat.json")["kinds"])
        #expect(kinds.count >= 20)
        for kind in kinds {
            let turns = try Turns(kind["turns"] ?? .null, "turns")
            let encoder = TurnEncoder(try Self.tokenizer(kind), controls: turns.ids)
            for expected in Golden.list(kind["cases"]) {
                let (system, message) = (expected["system"]?.string, expected["message"]?.string ?? "")
                let isLater = expected["later"]?.bool ?? false
                var (ids, refusal): ([Int]?, String?)
                do {
                    let script = try turns.script(system: system)
                    try turns.check(message: message)
                    let parts = (isLater ? script.later : script.first)
                        .written(system: system, user: message, date: Self.now)
                    ids = try encoder.encode(parts, goesOn: isLater)
                } catch { refusal = "\(error)" }
                let comment = "\(kind["name"]?.string ?? ""): \(expected.text)"
                #expect(ids == expected["ids"].map(Golden.ints), "\(comment)")
                #expect(refusal == expected["error"]?.string, "\(comment)")
            }
        }
    }

    @Test func tellTheDayAsPythonDoes() throws {
        for date in Golden.list(try Golden.json("chat.json")["dates"]) {
            #expect(formatted(Self.now, date["format"]?.string ?? "") == date["text"]?.string)
        }
        #expect(unknownDirective("%d %j") == "%j")
        #expect(unknownDirective("100%") == "%")
    }
}
