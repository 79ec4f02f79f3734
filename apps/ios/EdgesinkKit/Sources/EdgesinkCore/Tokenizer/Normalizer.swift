/// Rewrites text before it is split, as the `normalizer` of tokenizer.json says.
enum Normalizer: Sendable {
    case nfc
    case prepend([UInt32])
    case replace(Pattern, with: [UInt32])
    case sequence([Normalizer])

    /// nil where the file names none.
    init?(_ json: JSON) throws {
        guard let type = json["type"]?.string else { return nil }
        switch type {
        case "NFC": self = .nfc
        case "Prepend": self = .prepend(scalars(json["prepend"]?.string ?? ""))
        case "Replace":
            self = .replace(try Pattern(tokenizerJSON: json["pattern"]), with: scalars(json["content"]?.string ?? ""))
        case "Sequence": self = .sequence(try (json["normalizers"]?.array ?? []).compactMap(Normalizer.init))
        default: throw unsupported("normalizer", type)
        }
    }

    func normalized(_ text: [UInt32]) -> [UInt32] {
        switch self {
        case .nfc: CanonicalForm.shared.composed(text)
        case .prepend(let front): text.isEmpty ? text : front + text
        case .replace(let pattern, let content): Self.replaced(text, pattern, content)
        case .sequence(let parts): parts.reduce(text) { $1.normalized($0) }
        }
    }

    private static func replaced(_ text: [UInt32], _ pattern: Pattern, _ content: [UInt32]) -> [UInt32] {
        var out: [UInt32] = []
        var at = 0
        for match in pattern.matches(in: text[...]) {
            out += text[at..<match.lowerBound] + content
            at = match.upperBound
        }
        return out + text[at...]
    }
}

extension Pattern {
    /// `{"String": " "}` or `{"Regex": "…"}`.
    init(tokenizerJSON json: JSON?) throws {
        if let literal = json?["String"]?.string {
            self.init(literal: literal)
        } else if let source = json?["Regex"]?.string {
            try self.init(source)
        } else {
            throw unsupported("pattern", json?.shown ?? "None")
        }
    }
}

/// The Unicode scalars of `text`: what patterns and vocabularies work on.
func scalars(_ text: some StringProtocol) -> [UInt32] { text.unicodeScalars.map(\.value) }

/// The text of `scalars`, all of them valid.
func text(_ scalars: some Sequence<UInt32>) -> String {
    String(String.UnicodeScalarView(scalars.compactMap(Unicode.Scalar.init)))
}

func unsupported(_ role: String, _ type: String) -> EdgesinkError {
    EdgesinkError(
        .badBundle, "tokenizer.json has a \(role) '\(type)'", expected: "a component of the supported families",
        remedy: "see docs/ios.md")
}
