import EdgesinkCore
import Foundation

#if canImport(EdgesinkMemory)
    import EdgesinkMemory
#endif

/// `memory`: what a memory has, a line of JSON for each passage; or forget of it.
enum Remembered {
    static let usage = "memory FILE [--search MESSAGE | --forget N | --forget-all | --check]"

    #if canImport(EdgesinkMemory)
        static func run(_ words: some Sequence<String>) throws {
            let arguments = try Arguments(words, options: ["search", "forget"], switches: ["forget-all", "check"])
            let archive = try Archive(URL(filePath: try arguments.word("file")), make: false)
            defer { archive.close() }
            if let message = arguments.string("search") {
                for found in try archive.search(message) {
                    print(json(found.passage, score: found.score, way: found.way).text)
                }
            } else if let number = try arguments.optional("forget", Int.self) {
                guard try archive.forget([number]) == 1 else {
                    throw EdgesinkError(.badOption, "passage \(number)", expected: "one that the memory has")
                }
            } else if arguments.has("forget-all") {
                try archive.forgetAll()
            } else if arguments.has("check") {
                try archive.check()
            } else {
                try archive.export { print(json($0).text) }
            }
        }

        static func json(_ passage: Passage, score: Double? = nil, way: Way? = nil) -> JSON {
            let found: [(key: String, value: JSON)] =
                way.map { [("score", .double(score)), ("way", .string($0.rawValue))] } ?? []
            return .object(
                [
                    ("id", .int(passage.id)), ("stream", .int(passage.stream)),
                    ("first", passage.first.map { .int($0) } ?? .null),
                    ("last", passage.last.map { .int($0) } ?? .null),
                    ("role", .string(passage.role.rawValue)), ("said", .double(passage.said)),
                    ("standing", .bool(passage.isStanding)), ("text", .string(passage.text)),
                ] + found)
        }
    #else
        static func run(_ words: some Sequence<String>) throws { throw notBuilt }
    #endif

    static let notBuilt = EdgesinkError(
        .missingLibrary, "a build without EdgesinkMemory", expected: "one with SQLite",
        remedy: "install libsqlite3-dev and build again")
}
