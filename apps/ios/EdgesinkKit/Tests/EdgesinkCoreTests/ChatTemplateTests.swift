import EdgesinkCore
import Foundation
import Testing

@Suite("Chat templates against tests/golden/chat.json, rendered by jinja2")
struct ChatTemplateTests {
    private static let today: Date = {
        var parts = DateComponents()
        (parts.year, parts.month, parts.day, parts.hour) = (2026, 3, 5, 12)
        return Calendar(identifier: .gregorian).date(from: parts) ?? .distantPast
    }()

    private static func template(_ json: JSON) throws -> ChatTemplate {
        try ChatTemplate(source: json["source"]?.string ?? "", bos: "<s>", eos: "</s>")
    }

    private static func message(_ json: JSON) throws -> Message {
        Message(try #require(Message.Role(rawValue: json["role"]?.string ?? "")), json["content"]?.string ?? "")
    }

    @Test func rendersWhatJinjaRenders() throws {
        let templates = Golden.list(try Golden.json("chat.json")["templates"])
        #expect(templates.count >= 10)
        for golden in templates {
            let template = try Self.template(golden)
            for expected in Golden.list(golden["cases"]) {
                let messages = try Golden.list(expected["messages"]).map(Self.message)
                var (text, refusal): (String?, String?)
                do {
                    text = try template.rendered(
                        messages, prompting: expected["prompting"]?.bool ?? false, date: Self.today)
                } catch { refusal = "\(error)" }
                let comment = "\(golden["name"]?.string ?? ""): \(messages)"
                #expect(text.map { Array($0.utf8) } == expected["text"]?.string.map { Array($0.utf8) }, "\(comment)")
                #expect(refusal == expected["error"]?.string, "\(comment)")
            }
        }
    }

    @Test func cutsTurnsAsPythonCutsThem() throws {
        for golden in Golden.list(try Golden.json("chat.json")["templates"]) {
            let template = try Self.template(golden)
            if golden["name"]?.string?.contains("3.2") != true {  // its first turn tells the day
                #expect(try template.firstTurn("Hi", system: nil) == golden["first"]?.string)
            }
            #expect(try template.nextTurn("And?") == golden["next"]?.string)
        }
    }

    @Test func pinsTheSystemPrompt() throws {
        let golden = try #require(Golden.list(try Golden.json("chat.json")["templates"]).first)
        #expect(
            try Self.template(golden).systemTurn("Be brief.")
                == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    }

    @Test func refusesATemplateOfNoKnownFamily() throws {
        for (name, source) in try Golden.json("chat.json")["unknown"]?.object ?? [] {
            #expect(throws: EdgesinkError.self, "\(name)") {
                try ChatTemplate(source: source.string ?? "", bos: "", eos: "")
            }
        }
    }
}
