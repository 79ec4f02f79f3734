import EdgesinkCore
import Foundation

/// `tokenize`: ids of the text on stdin, or of one JSON string a line; `--decode` goes the other way.
enum Tokenize {
    static let usage = "tokenize TOKENIZER.json|BUNDLE [--special] [--lines] [--decode]"

    static func run(_ words: some Sequence<String>) throws {
        let arguments = try Arguments(words, options: [], switches: ["special", "lines", "decode"])
        let path = URL(filePath: try arguments.word("tokenizer.json or bundle"))
        let tokenizer = try path.pathExtension == "json" ? Tokenizer(file: path) : Tokenizer(bundle: path)
        let special = arguments.has("special")
        if arguments.has("decode") {
            while let line = readLine() { print(try shown(JSON.parse(line.utf8), tokenizer)) }
        } else if arguments.has("lines") {
            while let line = readLine() { print(tokenizer.encode(try text(line), special: special)) }
        } else {
            let text = String(decoding: FileHandle.standardInput.readDataToEndOfFile(), as: UTF8.self)
            print(tokenizer.encode(text, special: special))
        }
    }

    private static func text(_ line: String) throws -> String {
        guard let text = try JSON.parse(line.utf8).string else {
            throw UsageError(problem: "a line is not a JSON string")
        }
        return text
    }

    /// The text of a JSON list of ids, as a JSON string.
    private static func shown(_ ids: JSON, _ tokenizer: Tokenizer) throws -> String {
        guard let ids = ids.array else { throw UsageError(problem: "a line is not a JSON list") }
        return JSON.spelled(tokenizer.decode(ids.compactMap(\.int)))
    }
}
