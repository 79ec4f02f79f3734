import Foundation

/// Golden tokens of a bundle: a prompt and what a trusted runner goes on with, greedily. Repeating them at load tells a
/// device that computes silently wrong from one that computes right. Written by `edgesink verify`.
public struct GoldenStream: Equatable, Sendable {
    public static let format = 1

    public let sinks: Int
    public let prompt: [Int]
    public let expected: [Int]

    public init(sinks: Int, prompt: [Int], expected: [Int]) {
        (self.sinks, self.prompt, self.expected) = (sinks, prompt, expected)
    }

    /// Read a golden file.
    public init(file: URL) throws {
        guard let data = try? Data(contentsOf: file), let json = try? JSON.parse(data) else {
            throw EdgesinkError(.badBundle, "\(file.path) cannot be read", remedy: "make it again")
        }
        let place = file.lastPathComponent
        let fields = try StrictFields(json, place, ["format", "sinks", "prompt", "expected"])
        guard try fields.int("format") == Self.format else {
            throw EdgesinkError(
                .badBundle, "\(place) has format \(fields.json("format").shown)", expected: "format \(Self.format)",
                remedy: "make it again")
        }
        self.init(
            sinks: try fields.int("sinks"), prompt: try fields.list("prompt", StrictFields.int),
            expected: try fields.list("expected", StrictFields.int))
    }

    /// The golden tokens that came with the bundle; nil if none did.
    public static func ofBundle(_ bundle: URL) throws -> GoldenStream? {
        let file = bundle.appending(path: BundleFiles.goldenStream)
        return FileManager.default.fileExists(atPath: file.path) ? try GoldenStream(file: file) : nil
    }

    /// Start a new stream, feed it the prompt and then what was expected, and count where the largest logit agrees; the
    /// stream is reset after. One wrong token does not spoil those that follow: the expected one is fed in its place.
    public func agreement(with session: StreamSession, tokens: Int = .max) async throws -> Agreement {
        let before = await session.status.ring.sinks
        try await session.reset(sinks: sinks)
        var logits = try await session.feed(prompt)
        var agreement = Agreement()
        for (place, id) in expected.prefix(tokens).enumerated() {
            agreement.count(Sampler.argmax(logits) == id, place)
            logits = try await session.feed([id])
        }
        try await session.reset(sinks: before)
        return agreement
    }
}

/// How many tokens came out as expected.
public struct Agreement: Equatable, Sendable {
    public private(set) var tokens = 0
    public private(set) var matched = 0
    public private(set) var firstMiss: Int?

    public init() {}

    mutating func count(_ matches: Bool, _ place: Int) {
        tokens += 1
        if matches { matched += 1 } else { firstMiss = firstMiss ?? place }
    }

    public var share: Double { tokens == 0 ? 0 : Double(matched) / Double(tokens) }
}
