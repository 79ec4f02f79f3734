import EdgesinkCore
import Foundation
import TestSupport
import Testing

@Suite("Tokenizers against tests/golden/tokenizer, written by the tokenizers library")
struct TokenizerTests {
    static let families = ["gpt2", "smollm2", "llama3", "qwen2", "o200k", "mistral", "mistral_v3", "gemma"]

    private static func tokenizer(_ golden: JSON) throws -> Tokenizer {
        try Tokenizer(json: Data((golden["tokenizer"]?.text ?? "").utf8))
    }

    @Test(arguments: families) func encodesAndDecodesHardText(family: String) throws {
        let golden = try Golden.json("tokenizer/\(family).json")
        let tokenizer = try Self.tokenizer(golden)
        let encodings = Golden.list(golden["encodings"])
        #expect(encodings.count > 30)
        for encoding in encodings {
            let text = encoding["text"]?.string ?? ""
            let ids = Golden.ints(encoding["ids"])
            #expect(tokenizer.encode(text) == ids, "\(text.debugDescription)")
            #expect(tokenizer.encode(text, special: true) == Golden.ints(encoding["special"]))
            #expect(Array(tokenizer.decode(ids).utf8) == Array((encoding["decoded"]?.string ?? "").utf8))
        }
    }

    @Test(arguments: families) func decodesIdsThatNoTextGives(family: String) throws {
        let golden = try Golden.json("tokenizer/\(family).json")
        let tokenizer = try Self.tokenizer(golden)
        for decoding in Golden.list(golden["decodings"]) {
            let ids = Golden.ints(decoding["ids"])
            let pieces = Golden.list(decoding["pieces"]).compactMap(\.string)
            #expect(Array(tokenizer.decode(ids).utf8) == Array(pieces.joined().utf8))
            let whole = decoding["with_special"]?.string ?? ""
            if whole.contains("\u{FFFD}") { continue }  // of broken bytes more are kept here than there
            #expect(Array(tokenizer.decode(ids, skipSpecial: false).utf8) == Array(whole.utf8))
        }
    }

    @Test(arguments: families) func showsTheSameTextWithTheSameTokenAsPython(family: String) throws {
        let golden = try Golden.json("tokenizer/\(family).json")
        let tokenizer = try Self.tokenizer(golden)
        let streams = Golden.list(golden["streams"])
        #expect(streams.count > 10)
        for stream in streams + Golden.list(golden["decodings"]) {
            var detokenizer = Detokenizer(tokenizer)
            let pieces = Golden.ints(stream["ids"]).map { detokenizer.push($0) } + [detokenizer.finish()]
            #expect(
                pieces.map { Array($0.utf8) } == Golden.list(stream["pieces"]).map { Array(($0.string ?? "").utf8) })
        }
    }

    @Test(arguments: families) func streamsATextAsItIsDecodedWhole(family: String) throws {
        let golden = try Golden.json("tokenizer/\(family).json")
        let tokenizer = try Self.tokenizer(golden)
        for encoding in Golden.list(golden["encodings"]) {
            var gate = try StopFilter(Detokenizer(tokenizer), stop: ["no text has this"])
            let shown = Golden.ints(encoding["ids"]).map { gate.push($0) }.joined() + gate.finish()
            #expect(Array(shown.utf8) == Array((encoding["decoded"]?.string ?? "").utf8))
        }
    }

    @Test func leavesOutWhatAFileDoesToTextsForTraining() throws {
        let json = #"""
            {"model": {"type": "BPE", "vocab": {"a": 0, "b": 3}, "merges": []},
             "added_tokens": [{"id": 1, "content": "<s>", "special": true}, {"id": 2, "content": "</s>", "special": true}],
             "truncation": {"max_length": 1}, "padding": {"strategy": {"Fixed": 9}},
             "post_processor": {"type": "TemplateProcessing", "single": [
               {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "</s>", "type_id": 0}}],
              "special_tokens": {"<s>": {"id": "<s>", "ids": [1]}, "</s>": {"id": "</s>", "ids": [2]}}}}
            """#
        let tokenizer = try Tokenizer(json: Data(json.utf8))
        #expect(tokenizer.encode("aba", special: true) == [1, 0, 3, 0])
        #expect(tokenizer.encode("aba") == [0, 3, 0])
        #expect(tokenizer.rows == TokenRows([0, 1, 2, 3] as [Int32]))
    }

    @Test func aRowWithoutATokenHasNoChance() {
        let rows = TokenRows([0, 3, 1] as [Int32])
        #expect(rows.count == 4)
        #expect(rows.holes == [2])
        #expect(rows.rows(of: [0, 1, 9, 1, 9]) == [0, 1, -.infinity, 1])
        #expect(TokenRows([1, 0] as [Int32]).rows(of: [5, 6]) == [5, 6])
    }

    @Test(arguments: [
        ("normalizer", #"{"type": "BertNormalizer"}"#, "BertNormalizer"),
        ("pre_tokenizer", #"{"type": "UnicodeScripts"}"#, "UnicodeScripts"),
        ("decoder", #"{"type": "CTC"}"#, "CTC"),
        (
            "decoder", #"{"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Metaspace"}]}"#,
            "decoder of the whole text"
        ),
        ("post_processor", #"{"type": "BertProcessing"}"#, "BertProcessing"),
        ("model", #"{"type": "WordPiece", "vocab": {}}"#, "WordPiece"),
        ("pre_tokenizer", #"{"type": "Split", "pattern": {"Regex": "(?<=a)b"}, "behavior": "Isolated"}"#, "(?<=a)b"),
        ("pre_tokenizer", #"{"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated"}"#, "'\\w'"),
    ])
    func refusesUnknownComponentsByName(place: String, component: String, name: String) throws {
        let model = #"{"type": "BPE", "vocab": {"a": 0}, "merges": []}"#
        let text =
            place == "model" ? #"{"model": \#(component)}"# : #"{"model": \#(model), "\#(place)": \#(component)}"#
        let error = #expect(throws: EdgesinkError.self) { try Tokenizer(json: Data(text.utf8)) }
        #expect(error?.description.contains(name) == true)
    }
}
