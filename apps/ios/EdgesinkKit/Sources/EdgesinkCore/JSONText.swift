/// Writing JSON: only what reports and session files need.
extension JSON {
    /// `text` as a JSON string.
    public static func spelled(_ text: String) -> String {
        var out = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": out += "\\\""
            case "\\": out += "\\\\"
            case "\n": out += "\\n"
            case _ where scalar.value < 0x20 || scalar.value == 0x7F:
                let digits = String(scalar.value, radix: 16)
                out += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out + "\""
    }

    /// The value as JSON text on one line.
    public var text: String {
        switch self {
        case .null: "null"
        case .bool(let value): value ? "true" : "false"
        case .number(let spelled): spelled
        case .string(let value): Self.spelled(value)
        case .array(let items): "[" + items.map(\.text).joined(separator: ", ") + "]"
        case .object(let fields):
            "{" + fields.map { "\(Self.spelled($0.key)): \($0.value.text)" }.joined(separator: ", ") + "}"
        }
    }

    public static func int(_ value: Int) -> JSON { .number(String(value)) }

    public static func double(_ value: Double?) -> JSON {
        guard let value, value.isFinite else { return .null }
        return .number("\(value)")
    }

    public static func ints(_ values: [Int]) -> JSON { .array(values.map(int)) }
}
