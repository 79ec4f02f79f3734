import Foundation

/// Text to ids and back: the bundle's `tokenizer.json`.
///
/// Truncation, padding and tokens behind the text, which a file may ask for, are left out: they are for training.
/// Byte-pair models of the GPT-2, Llama 3, Qwen 2, SmolLM 2, Mistral and Gemma families; a component of another kind
/// is refused by name. Held to the `tokenizers` library by `tests/golden/tokenizer` and `tests/test_swift_tokenizer.py`.
public struct Tokenizer: Sendable {
    let normalizer: Normalizer?
    private let preTokenizer: PreTokenizer?
    private let model: BytePairModel
    var added: AddedTokens
    private let around: TokenFrame
    let decoder: TokenDecoder  // at the beginning of a text
    public let rows: TokenRows  // of the logits, that have a token

    /// Read `tokenizer.json` of the bundle folder.
    public init(bundle: URL) throws {
        try self.init(file: bundle.appending(path: BundleFiles.tokenizer))
    }

    public init(file: URL) throws {
        do {
            try self.init(json: try Data(contentsOf: file))
        } catch let error as EdgesinkError {
            throw error
        } catch {
            throw EdgesinkError(
                .badBundle, "\(file.path) cannot be read (\(error))", remedy: "export the bundle again")
        }
    }

    public init(json data: Data) throws {
        let json = try JSON.parse(data)
        normalizer = try Normalizer(json["normalizer"] ?? .null)
        preTokenizer = try PreTokenizer(json["pre_tokenizer"] ?? .null)
        model = try BytePairModel(json["model"] ?? .null)
        added = try AddedTokens(json["added_tokens"]?.array ?? [], normalizer)
        around = try TokenFrame(json["post_processor"] ?? .null)
        decoder = try TokenDecoder(json["decoder"] ?? .null)
        rows = TokenRows(model.ids + added.ids)
    }

    /// Ids of `text`; `special` adds what the tokenizer puts around a plain text (a first token).
    public func encode(_ text: String, special: Bool = false) -> [Int] {
        var ids: [Int32] = []
        var known: [ArraySlice<UInt32>: [Int32]] = [:]  // words met in this text
        var isFirst = true
        for part in added.split(scalars(text), normalizer) {
            switch part {
            case .token(let id): ids.append(id)
            case .text(let piece): ids += encode(.init(text: piece, isFirst: isFirst), &known)
            }
            isFirst = false
        }
        return (special ? around.framed(ids) : ids).map(Int.init)
    }

    private func encode(_ piece: PreTokenizer.Piece, _ known: inout [ArraySlice<UInt32>: [Int32]]) -> [Int32] {
        var ids: [Int32] = []
        for word in preTokenizer?.split(piece) ?? [piece] {
            if let found = known[word.text] {
                ids += found
            } else {
                let made = model.encode(word.text)
                if word.text.count < Self.longestKept { known[word.text] = made }
                ids += made
            }
        }
        return ids
    }

    private static let longestKept = 64  // scalars; longer words seldom come twice

    /// Text of `ids`, special tokens left out: what a `Detokenizer` says of them one by one.
    public func decode(_ ids: some Sequence<Int>, skipSpecial: Bool = true) -> String {
        var detokenizer = Detokenizer(self, skipSpecial: skipSpecial)
        return ids.map { detokenizer.push($0) }.joined() + detokenizer.finish()
    }

    /// Whether the token means something to the model only, and has no text.
    func isSpecial(_ id: Int) -> Bool { Int32(exactly: id).map(added.isSpecial) ?? false }

    /// The token as the vocabulary spells it; nil if there is no such id.
    public func token(_ id: Int) -> String? {
        Int32(exactly: id).flatMap { added.token($0) ?? model.token($0) }
    }

    /// The id of a token as the vocabulary spells it.
    public func id(_ token: String) -> Int? { (added.id(token) ?? model.id(token)).map(Int.init) }
}

/// What is put before a plain text: the `post_processor` of tokenizer.json, of which only templates add tokens. What they
/// put behind it is left out, as nothing could follow.
struct TokenFrame: Sendable {
    private var front: [Int32] = []

    init(_ json: JSON) throws {
        guard let type = json["type"]?.string else { return }
        switch type {
        case "ByteLevel": break  // offsets only
        case "TemplateProcessing": front = try Self.front(json)
        case "Sequence":
            for part in json["processors"]?.array ?? [] { front = try TokenFrame(part).front + front }
        default: throw unsupported("post_processor", type)
        }
    }

    private static func front(_ json: JSON) throws -> [Int32] {
        var front: [Int32] = []
        for item in (json["single"]?.array ?? []).prefix(while: { $0["Sequence"] == nil }) {
            guard let name = item["SpecialToken"]?["id"]?.string else { continue }
            let ids = json["special_tokens"]?[name]?["ids"]?.array?.compactMap { $0.int.flatMap(Int32.init(exactly:)) }
            guard let ids else { throw unsupported("template with", name) }
            for id in ids where !front.contains(id) { front.append(id) }  // each once
        }
        return front
    }

    func framed(_ ids: [Int32]) -> [Int32] { front + ids }
}
