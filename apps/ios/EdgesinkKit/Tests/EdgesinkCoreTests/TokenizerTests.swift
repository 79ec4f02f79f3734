import EdgesinkCore
import Foundation
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
            #expect(Array(tokenizer.decode(ids).utf8) == Array((decoding["decoded"]?.string ?? "").utf8))
            let whole = tokenizer.decode(ids, skipSpecial: false)
            #expect(Array(whole.utf8) == Array((decoding["with_special"]?.string ?? "").utf8))
        }
    }

    @Test(arguments: families) func showsTextTokenByToken(family: String) throws {
        let golden = try Golden.json("tokenizer/\(family).json")
        let tokenizer = try Self.tokenizer(golden)
        for encoding in Golden.list(golden["encodings"]) {
            var detokenizer = Detokenizer(tokenizer)
            let ids = Golden.ints(encoding["ids"])
            let pieces = ids.map { detokenizer.push($0) }
            let shown = pieces.joined() + detokenizer.finish()
            if !shown.contains("\u{FFFD}") {
                #expect(Array(shown.utf8) == Array((encoding["decoded"]?.string ?? "").utf8))
            }
        }
    }

    @Test(arguments: [
        ("normalizer", #"{"type": "BertNormalizer"}"#, "BertNormalizer"),
        ("pre_tokenizer", #"{"type": "UnicodeScripts"}"#, "UnicodeScripts"),
        ("decoder", #"{"type": "CTC"}"#, "CTC"),
        ("post_processor", #"{"type": "BertProcessing"}"#, "BertProcessing"),
        ("model", #"{"type": "WordPiece", "vocab": {}}"#, "WordPiece"),
        ("pre_tokenizer", #"{"type": "Split", "pattern": {"Regex": "(?<=a)b"}, "behavior": "Isolated"}"#, "(?<=a)b"),
        ("pre_tokenizer", #"{"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated"}"#, "'\\w'"),
        ("truncation", #"{"max_length": 5}"#, "truncation"),
    ])
    func refusesUnknownComponentsByName(place: String, component: String, name: String) throws {
        let model = #"{"type": "BPE", "vocab": {"a": 0}, "merges": []}"#
        let text =
            place == "model" ? #"{"model": \#(component)}"# : #"{"model": \#(model), "\#(place)": \#(component)}"#
        let error = #expect(throws: EdgesinkError.self) { try Tokenizer(json: Data(text.utf8)) }
        #expect(error?.description.contains(name) == true)
    }
}
