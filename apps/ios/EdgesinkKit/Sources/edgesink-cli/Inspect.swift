import EdgesinkCore
import Foundation

/// `inspect`: what a bundle says of itself, its files held against their digests.
enum Inspect {
    static let usage = "inspect BUNDLE [--json]"

    private static func view(_ view: LayerRing) -> JSON {
        .object([("capacity", .int(view.capacity)), ("sinks", .bool(view.sinks))])
    }

    static func run(_ words: some Sequence<String>) throws {
        let arguments = try Arguments(words, options: [], switches: ["json"])
        let bundle = URL(filePath: try arguments.word("bundle"))
        let manifest = try Manifest.read(bundle)
        try manifest.checkFiles(bundle)
        let facts: [(key: String, value: JSON)] = [
            ("model", .string(manifest.name)), ("family", .string(manifest.family)),
            ("target", .string(manifest.target.rawValue)),
            ("precision", .string(manifest.precision.rawValue)), ("weights", .string(manifest.weights)),
            ("weight_bytes", .int(manifest.weightBytes)), ("state_bytes", .int(manifest.stateBytes)),
            ("views", .array(manifest.views.map(view))),
            ("sinks", .int(manifest.stream.sinks)), ("max_sinks", .int(manifest.stream.maxSinks)),
            ("window", .int(manifest.stream.window)), ("capacity", .int(manifest.stream.capacity)),
            ("chunk", .int(manifest.stream.chunk)), ("positions", .string(manifest.stream.positions.rawValue)),
            ("sink_token_id", manifest.sinkTokenId.map(JSON.int) ?? .null),
            ("sampling", manifest.sampling.map { .string("\($0.words) (\($0.source))") } ?? .null),
            ("fingerprint", .string(manifest.fingerprint)),
        ]
        if arguments.has("json") {
            print(JSON.object(facts).text)
        } else {
            for (name, value) in facts { print("\(name): \(value.string ?? value.text)") }
        }
    }
}
