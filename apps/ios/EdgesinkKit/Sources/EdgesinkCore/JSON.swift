/// A JSON value and its strict parser.
///
/// Foundation's parser is not used for two reasons: numbers keep their spelling here (an integer is not a float, and
/// 64 bits survive), and objects keep their keys apart that Swift's `String` would call equal (vocabularies hold both
/// the composed and the decomposed form of a letter).
public enum JSON: Sendable {
    case null
    case bool(Bool)
    case number(String)  // as spelled
    case string(String)
    case array([JSON])
    case object([(key: String, value: JSON)])  // in file order

    public struct SyntaxError: Error, CustomStringConvertible {
        public let problem: String
        public let offset: Int  // bytes
        public var description: String { "\(problem) at byte \(offset)" }
    }

    public static func parse(_ bytes: some Collection<UInt8>) throws -> JSON {
        try Array(bytes).withUnsafeBufferPointer { buffer in
            var parser = JSONParser(bytes: buffer)
            return try parser.document()
        }
    }

    public subscript(_ key: String) -> JSON? {
        guard case .object(let fields) = self else { return nil }
        return fields.first { $0.key == key }?.value
    }

    public var string: String? { if case .string(let value) = self { value } else { nil } }
    public var bool: Bool? { if case .bool(let value) = self { value } else { nil } }
    public var array: [JSON]? { if case .array(let value) = self { value } else { nil } }
    public var object: [(key: String, value: JSON)]? { if case .object(let value) = self { value } else { nil } }
    public var int: Int? { if case .number(let spelled) = self { Int(spelled) } else { nil } }
    public var unsigned: UInt64? { if case .number(let spelled) = self { UInt64(spelled) } else { nil } }
    public var double: Double? { if case .number(let spelled) = self { Double(spelled) } else { nil } }
    public var isNull: Bool { if case .null = self { true } else { false } }

    /// As Python's `repr` shows it: error texts are the same on both sides.
    public var shown: String {
        switch self {
        case .null: "None"
        case .bool(let value): value ? "True" : "False"
        case .number(let spelled): spelled
        case .string(let value): Self.quoted(value)
        case .array(let items): "[" + items.map(\.shown).joined(separator: ", ") + "]"
        case .object(let fields):
            "{" + fields.map { "\(Self.quoted($0.key)): \($0.value.shown)" }.joined(separator: ", ") + "}"
        }
    }

    private static func quoted(_ text: String) -> String {
        let quote = text.contains("'") && !text.contains("\"") ? "\"" : "'"
        let escapes: [Character: String] = ["\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"]
        let inside = text.map { escapes[$0] ?? (String($0) == quote ? "\\" + quote : String($0)) }.joined()
        return quote + inside + quote
    }
}

/// Recursive descent over UTF-8 bytes.
private struct JSONParser {
    let bytes: UnsafeBufferPointer<UInt8>
    var at = 0
    var depth = 0

    static let deepest = 200

    init(bytes: UnsafeBufferPointer<UInt8>) { self.bytes = bytes }

    mutating func document() throws -> JSON {
        let value = try self.value()
        skipSpace()
        guard at == bytes.count else { throw fail("something after the end") }
        return value
    }

    func fail(_ problem: String) -> JSON.SyntaxError { .init(problem: problem, offset: at) }

    mutating func skipSpace() {
        while at < bytes.count, [0x20, 0x0A, 0x0D, 0x09].contains(bytes[at]) { at += 1 }
    }

    mutating func take(_ byte: UInt8) -> Bool {
        skipSpace()
        guard at < bytes.count, bytes[at] == byte else { return false }
        at += 1
        return true
    }

    mutating func value() throws -> JSON {
        skipSpace()
        guard at < bytes.count else { throw fail("the end came early") }
        depth += 1
        defer { depth -= 1 }
        guard depth <= Self.deepest else { throw fail("nested too deeply") }
        switch bytes[at] {
        case UInt8(ascii: "{"): return try object()
        case UInt8(ascii: "["): return try array()
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: return try number()
        }
    }

    mutating func word(_ text: StaticString, _ value: JSON) throws -> JSON {
        let end = at + text.utf8CodeUnitCount
        guard end <= bytes.count, (at..<end).allSatisfy({ bytes[$0] == text.utf8Start[$0 - at] }) else {
            throw fail("a value expected")
        }
        at = end
        return value
    }

    mutating func object() throws -> JSON {
        at += 1
        var fields: [(key: String, value: JSON)] = []
        if take(UInt8(ascii: "}")) { return .object(fields) }
        repeat {
            skipSpace()
            guard at < bytes.count, bytes[at] == UInt8(ascii: "\"") else { throw fail("a name expected") }
            let key = try string()
            guard take(UInt8(ascii: ":")) else { throw fail("':' expected") }
            fields.append((key, try value()))
        } while take(UInt8(ascii: ","))
        guard take(UInt8(ascii: "}")) else { throw fail("'}' expected") }
        return .object(fields)
    }

    mutating func array() throws -> JSON {
        at += 1
        var items: [JSON] = []
        if take(UInt8(ascii: "]")) { return .array(items) }
        repeat { items.append(try value()) } while take(UInt8(ascii: ","))
        guard take(UInt8(ascii: "]")) else { throw fail("']' expected") }
        return .array(items)
    }

    mutating func number() throws -> JSON {
        let start = at
        func isPart(_ byte: UInt8) -> Bool {
            (0x30...0x39).contains(byte) || [0x2B, 0x2D, 0x2E, 0x45, 0x65].contains(byte)  // + - . E e
        }
        while at < bytes.count, isPart(bytes[at]) { at += 1 }
        let spelled = String(decoding: bytes[start..<at], as: UTF8.self)
        guard Double(spelled) != nil, !spelled.hasPrefix("+"), !spelled.hasPrefix(".") else {
            at = start
            throw fail("a value expected")
        }
        return .number(spelled)
    }

    mutating func string() throws -> String {
        at += 1
        let start = at
        while at < bytes.count, bytes[at] != 0x22, bytes[at] != 0x5C, bytes[at] >= 0x20 { at += 1 }
        if at < bytes.count, bytes[at] == 0x22 {  // the common case: nothing escaped
            at += 1
            return try checked(bytes[start..<(at - 1)])
        }
        var out = Array(bytes[start..<at])
        while true {
            guard at < bytes.count else { throw fail("a text without an end") }
            let byte = bytes[at]
            at += 1
            if byte == 0x22 { return try out.withUnsafeBufferPointer { try checked($0[...]) } }
            guard byte >= 0x20 else { throw fail("a control character in a text") }
            if byte == 0x5C { out += Array(try escape().utf8) } else { out.append(byte) }
        }
    }

    func checked(_ slice: Slice<UnsafeBufferPointer<UInt8>>) throws -> String {
        guard let text = String(validating: slice, as: UTF8.self) else { throw fail("a text that is not UTF-8") }
        return text
    }

    mutating func escape() throws -> String {
        guard at < bytes.count else { throw fail("a text without an end") }
        let byte = bytes[at]
        at += 1
        switch byte {
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{C}"
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return String(Unicode.Scalar(byte))
        case UInt8(ascii: "u"): return try unicodeEscape()
        default: throw fail("an unknown escape")
        }
    }

    mutating func unicodeEscape() throws -> String {
        let first = try fourDigits()
        if let scalar = Unicode.Scalar(UInt32(first)) { return String(scalar) }
        guard at + 1 < bytes.count, bytes[at] == 0x5C, bytes[at + 1] == UInt8(ascii: "u") else {
            throw fail("half a surrogate pair")
        }
        at += 2
        let second = try fourDigits()
        guard (0xD800..<0xDC00).contains(first), (0xDC00..<0xE000).contains(second) else {
            throw fail("half a surrogate pair")
        }
        return String(decoding: [first, second], as: UTF16.self)
    }

    mutating func fourDigits() throws -> UInt16 {
        guard at + 4 <= bytes.count,
            let value = UInt16(String(decoding: bytes[at..<(at + 4)], as: UTF8.self), radix: 16)
        else { throw fail("four hexadecimal digits expected") }
        at += 4
        return value
    }
}
