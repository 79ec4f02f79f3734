/// Holds text back while it may be the beginning of a stop string. Works on Unicode scalars, as Python does: to Swift's
/// characters a stop string is not found in front of a combining mark.
public struct StopFilter: Sendable {
    private var detokenizer: Detokenizer
    private let stops: [[Unicode.Scalar]]
    private var held: [Unicode.Scalar] = []
    public private(set) var stopped = false

    public init(_ detokenizer: Detokenizer, stop: [String]) throws {
        guard !stop.contains("") else {
            throw EdgesinkError(.badOption, "an empty stop string", expected: "one character or more")
        }
        self.detokenizer = detokenizer
        stops = stop.map { Array($0.unicodeScalars) }
    }

    /// The text that may be shown after this id.
    public mutating func push(_ id: Int) -> String { release(detokenizer.push(id)) }

    /// What is left at the end.
    public mutating func finish() -> String {
        if stopped { return "" }
        let shown = release(detokenizer.finish())
        defer { held = [] }
        return shown + Self.joined(held)
    }

    private mutating func release(_ text: String) -> String {
        held += text.unicodeScalars
        if let first = stops.compactMap(place).min() {
            stopped = true
            defer { held = [] }
            return Self.joined(held[..<first])
        }
        let kept = stops.map(begun).max() ?? 0
        defer { held = Array(held.suffix(kept)) }
        return Self.joined(held.dropLast(kept))
    }

    private func place(_ stop: [Unicode.Scalar]) -> Int? {
        guard held.count >= stop.count else { return nil }
        return (0...(held.count - stop.count)).first { held[$0..<($0 + stop.count)].elementsEqual(stop) }
    }

    /// How much of `stop` the held text ends with.
    private func begun(_ stop: [Unicode.Scalar]) -> Int {
        (1..<max(1, stop.count)).last { held.suffix($0).elementsEqual(stop.prefix($0)) && held.count >= $0 } ?? 0
    }

    private static func joined(_ scalars: some Sequence<Unicode.Scalar>) -> String {
        String(String.UnicodeScalarView(scalars))
    }
}
