/// How a model streams: frozen facts, checked when read. The twin of `StreamSpec` and `LayerRing` in `edgesink/spec.py`.

public enum Positions: String, Sendable { case cache, original }

/// Of a dimension, a vocabulary or a window; more is a mistake.
let largestSize = 1 << 31

/// What of the stream is fixed when the model is exported.
public struct StreamSpec: Equatable, Sendable {
    public let sinks: Int  // the default of a stream; chosen anew whenever one starts
    public let window: Int  // tokens, the current one included, in addition to the default sinks
    public let maxSinks: Int
    public let chunk: Int  // T, most tokens a run
    public let positions: Positions

    public init(sinks: Int, window: Int, maxSinks: Int, chunk: Int, positions: Positions = .cache) throws {
        (self.sinks, self.window, self.maxSinks, self.chunk) = (sinks, window, maxSinks, chunk)
        self.positions = positions
        let sizes = [("sinks", sinks), ("window", window), ("max_sinks", maxSinks), ("chunk", chunk)]
        for (name, size) in sizes where size > largestSize {
            throw EdgesinkError(.badOption, "\(name) = \(size)", expected: "\(largestSize) or less")
        }
        guard 0 <= sinks, sinks <= maxSinks else {
            throw EdgesinkError(
                .badOption, "sinks = \(sinks)", expected: "0 to max_sinks = \(maxSinks)", remedy: "raise --max-sinks")
        }
        _ = try Ring(sinks: sinks, capacity: capacity, chunk: chunk)
        _ = try Ring(sinks: maxSinks, capacity: capacity, chunk: chunk)
    }

    /// C: tokens that a token sees at most; the same for every number of sinks.
    public var capacity: Int { sinks + window }

    /// The ring of a stream with `sinks` pinned tokens; nil takes the default. Throws if the bundle cannot hold them.
    public func ring(sinks: Int? = nil) throws -> Ring {
        let sinks = sinks ?? self.sinks
        guard (0...maxSinks).contains(sinks) else {
            throw EdgesinkError(
                .badOption, "sinks = \(sinks)",
                expected: "0 to \(maxSinks), the most that this bundle was exported for",
                remedy: "export again with a larger --max-sinks")
        }
        return try Ring(sinks: sinks, capacity: capacity, chunk: chunk)
    }

    /// The ring of the layers of a view in a stream with `sinks` pinned tokens.
    public func ring(of view: LayerRing, sinks: Int? = nil) throws -> Ring {
        view.sinks ? try ring(sinks: sinks) : try Ring(sinks: 0, capacity: view.capacity, chunk: chunk)
    }
}

/// A view: what layers of one kind hold of a stream.
public struct LayerRing: Equatable, Sendable {
    public let capacity: Int  // tokens that a token sees at most
    public let sinks: Bool  // whether the stream's sinks are pinned; without, it is the layer's own sliding window
}

// MARK: - Reading

extension StreamSpec {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(json, place, ["sinks", "window", "max_sinks", "chunk", "positions"])
        let (sinks, window) = (try fields.int("sinks"), try fields.int("window"))
        let (maxSinks, chunk) = (try fields.int("max_sinks"), try fields.int("chunk"))
        let positions: Positions = try fields.choice("positions")
        self = try asBundleFault(place) {
            try StreamSpec(sinks: sinks, window: window, maxSinks: maxSinks, chunk: chunk, positions: positions)
        }
    }
}

extension LayerRing {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(json, place, ["capacity", "sinks"])
        capacity = try fields.int("capacity")
        sinks = try fields.bool("sinks")
    }

    /// The ring of the stream's sinks is as long as the stream sees; a layer's own window is shorter.
    func check(in stream: StreamSpec) throws {
        let (least, most) = sinks ? (stream.capacity, stream.capacity) : (stream.chunk, stream.capacity - 1)
        guard least <= capacity, capacity <= most else {
            throw EdgesinkError(
                .badBundle, "a view \(sinks ? "with" : "without") sinks of \(capacity) tokens",
                expected: sinks ? "\(most)" : "\(least) to \(most)", remedy: Manifest.again)
        }
    }
}
