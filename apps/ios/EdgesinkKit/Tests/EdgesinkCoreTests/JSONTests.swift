import EdgesinkCore
import Testing

@Suite("JSON: what Foundation's parser would lose")
struct JSONTests {
    @Test func keepsNumbersAsSpelled() throws {
        #expect(try JSON.parse("9223372036854775813".utf8).unsigned == 9_223_372_036_854_775_813)
        #expect(try JSON.parse("4.0".utf8).int == nil)
        #expect(try JSON.parse("4.0".utf8).double == 4)
    }

    @Test func keepsKeysApartThatSwiftCallsEqual() throws {
        let fields = try JSON.parse("{\"\u{E9}\": 1, \"e\u{301}\": 2}".utf8).object ?? []
        #expect(fields.map { $0.key.unicodeScalars.count } == [1, 2])
    }

    @Test func readsEscapes() throws {
        #expect(try JSON.parse(#""a\u00e9\ud83d\ude00\n\"\\\/""#.utf8).string == "aé😀\n\"\\/")
    }

    @Test(arguments: [
        "", "{", "[1,]", "{\"a\" 1}", "\"\\ud800\"", "\"\\x\"", "01a", "tru", "1 2", "\"", "+1", "\"a\u{1}\"",
        String(repeating: "[", count: 1000),
    ])
    func refusesWhatIsNoJSON(text: String) {
        #expect(throws: JSON.SyntaxError.self) { try JSON.parse(text.utf8) }
    }

    @Test func writesWhatItReads() throws {
        let text = #"{"a": [1, 2.5, null, true], "b\"\n\u0001": "é"}"#
        #expect(try JSON.parse(text.utf8).text == text)
    }
}
