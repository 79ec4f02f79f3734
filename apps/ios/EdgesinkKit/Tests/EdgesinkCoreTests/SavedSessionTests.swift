import EdgesinkCore
import Foundation
import TestSupport
import Testing

/// A session file as anyone may write it.
private struct Forgery {
    var metadata: [(key: String, value: JSON)]
    var entries: [(name: String, dtype: String, shape: [Int], bytes: Data)]
    var gap = 0  // bytes between two entries
    var overlap = 0

    /// What a toy of 39 rows wrote after `position` tokens.
    init(_ manifest: Manifest, position: Int = 5) {
        metadata = [
            ("edgesink_session", .string("1")), ("fingerprint", .string(manifest.fingerprint)),
            ("position", .string("\(position)")), ("sinks", .string("3")),
        ]
        entries = manifest.states.map { state in
            let tensor = ToyBackend.tensor(state, slots: Array(0..<position))
            return (tensor.name, "F32", tensor.shape, tensor.bytes)
        }
    }

    mutating func set(_ name: String, _ value: JSON?) {
        metadata.removeAll { $0.key == name }
        if let value { metadata.append((name, value)) }
    }

    func header() -> JSON {
        var (fields, at) = ([(key: "__metadata__", value: JSON.object(metadata))], 0)
        for entry in entries {
            let end = at + entry.bytes.count
            let value: [(key: String, value: JSON)] = [
                ("dtype", .string(entry.dtype)), ("shape", .ints(entry.shape)), ("data_offsets", .ints([at, end])),
            ]
            fields.append((entry.name, .object(value)))
            at = end + gap - overlap
        }
        return .object(fields)
    }

    func write(to file: URL) throws {
        let header = Data(header().text.utf8)
        var data = Data((0..<8).map { UInt8(truncatingIfNeeded: header.count >> (8 * $0)) }) + header
        for entry in entries { data += entry.bytes + Data(count: gap) }
        try data.dropLast(gap + overlap * (entries.count - 1)).write(to: file)
    }
}

@Suite("Session files that no stream can have written are refused, as Python refuses them")
struct SavedSessionTests {
    /// The words that a forged file is refused with, the stream being where it was; nil if it is taken.
    private func refusal(position: Int = 5, _ forge: (inout Forgery) -> Void) async throws -> String? {
        let manifest = try toyManifest()
        let folder = try TemporaryFolder()
        let session = try StreamSession(manifest: manifest, backend: ToyBackend(manifest: manifest))
        _ = try await session.feed([1, 2, 3])
        var forgery = Forgery(manifest, position: position)
        forge(&forgery)
        try forgery.write(to: folder.file("talk"))
        do {
            try await session.restore(from: folder.file("talk"))
        } catch let error as EdgesinkError {
            #expect(error.kind == .badSession)
            #expect(await session.position == 3)
            #expect(try await session.feed([7]) == ToyBackend.logits(after: [1, 2, 3, 7], 256))
            return error.description
        }
        return nil
    }

    @Test func aFileThatNothingIsWrongWithIsTaken() async throws {
        #expect(try await refusal { _ in } == nil)
        #expect(try await refusal(position: 0) { _ in } == nil)
        #expect(try await refusal(position: 39) { $0.set("position", .string("\(1 << 52)")) } == nil)
    }

    @Test(arguments: [
        ("position", "-1"), ("position", "500"), ("position", "\((1 << 52) + 1)"), ("position", "9223372036854775808"),
        ("position", String(repeating: "9", count: 5000)), ("position", "+5"), ("position", "05"), ("position", "5.0"),
        ("position", " 5"), ("position", "1_0"), ("position", "\u{665}"), ("position", ""), ("sinks", "-1"),
        ("sinks", "17"), ("sinks", "+3"), ("more", "1"),
    ])
    func anImpossibleHeaderIsRefused(field: String, value: String) async throws {
        let words = try await refusal { $0.set(field, .string(value)) }
        #expect(words?.contains("is damaged") == true, "\(field) \(value.prefix(30))")
    }

    @Test func aHeaderWithAFieldTooFewOrOneThatIsNoTextIsRefused() async throws {
        for name in ["position", "sinks", "fingerprint"] {
            #expect(try await refusal { $0.set(name, nil) }?.contains("its header has the fields") == true)
            #expect(try await refusal { $0.set(name, .int(5)) }?.contains("is no text") == true)
        }
        #expect(try await refusal { $0.metadata.append(("position", .string("6"))) }?.contains("twice") == true)
        #expect(try await refusal { $0.set("edgesink_session", nil) }?.contains("of this version") == true)
        #expect(try await refusal { $0.set("edgesink_session", .string("2")) }?.contains("of this version") == true)
        #expect(try await refusal { $0.set("fingerprint", .string("0")) }?.contains("another bundle") == true)
    }

    @Test(arguments: [
        ("F32", [1, 2, 4, 16]), ("F32", [1, 2, 6, 16]), ("F32", [1, 2, 0, 16]), ("F32", [1, 10, 1, 16]), ("F32", [160]),
        ("F32", [5, 2, 1, 16]), ("F32", [1, 2, 80]), ("F32", [1, 2, 5, 16, 1]), ("F32", [1, 2, 39, 16]),
        ("F16", [1, 2, 5, 16]), ("F64", [1, 2, 5, 16]), ("I32", [1, 2, 5, 16]), ("F32", [1, 2, -5, -16]), ("F32", []),
    ])
    func aStateThatDoesNotFitIsRefused(dtype: String, shape: [Int]) async throws {
        let bytes = Data(count: max(0, shape.reduce(["F16": 2, "F64": 8][dtype] ?? 4, *)))
        let words = try await refusal { $0.entries[0] = ("key_0", dtype, shape, bytes) }
        #expect(words?.contains("is damaged") == true)
    }

    @Test(arguments: [Float.nan, .infinity, -.infinity]) func numbersThatAreNotFiniteAreRefused(bad: Float) async throws
    {
        let words = try await refusal { forgery in
            withUnsafeBytes(of: bad) { forgery.entries[0].bytes.replaceSubrange(8..<12, with: $0) }
        }
        #expect(words?.contains("not finite") == true)
    }

    @Test func statesTooManyOrTooFewAreRefused() async throws {
        let more = try await refusal { $0.entries.append(("key_2", "F32", [1, 2, 5, 16], $0.entries[0].bytes)) }
        #expect(more?.contains("key_2 is no state of the bundle") == true)
        let fewer = try await refusal { $0.entries = [] }
        #expect(fewer?.contains("key_0 is missing") == true)
        let twice = try await refusal { $0.entries.append($0.entries[0]) }
        #expect(twice?.contains("twice") == true)
    }

    @Test func entriesWithAGapOrAnOverlapAreRefused() async throws {
        for (gap, overlap) in [(4, 0), (0, 4)] {
            let words = try await refusal { ($0.gap, $0.overlap) = (gap, overlap) }
            #expect(words?.contains("overlap or do not fill the file") == true)
        }
    }
}
