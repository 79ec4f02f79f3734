/// What a model is and how it streams: frozen facts, checked when read. The twin of `edgesink/spec.py`.
///
/// Frequencies and norms are in the graph; what is kept of them here is for `inspect` to show.

public enum Positions: String, Sendable { case cache, original }
public enum Precision: String, Sendable { case fp32, fp16, int8, int4, pal4 }
public enum Target: String, Sendable {
    case onnx, coreml, coreai

    /// Rows of a state buffer are rounded up to a multiple of this; those beyond the stream's are never seen.
    public var stateRowMultiple: Int { self == .coreml ? 32 : 1 }
}
/// Core ML only: how new keys and values reach the state. `host`: the runner writes them.
public enum KvWrite: String, Sendable { case slice, blend, host }
public enum StateDtype: String, Sendable {
    case float32, float16

    public var itemBytes: Int { self == .float32 ? 4 : 2 }
}

/// Frequencies stretched by wavelength, as Llama 3.1 does.
public struct Llama3Scaling: Equatable, Sendable {
    public let factor: Double
    public let lowFreqFactor: Double
    public let highFreqFactor: Double
    public let originalContext: Int  // tokens
}

public struct RopeSpec: Equatable, Sendable {
    public let theta: Double
    public let scaling: Llama3Scaling?
}

/// A pre-norm decoder of the Llama family.
public struct ModelSpec: Equatable, Sendable {
    public let name: String  // shown to people
    public let architecture: String
    public let layers: Int  // L
    public let hidden: Int
    public let heads: Int  // H, query heads
    public let kvHeads: Int  // K, key/value heads; divides H
    public let headDim: Int  // D, even
    public let intermediate: Int
    public let vocab: Int  // V
    public let normEps: Double
    public let rope: RopeSpec
    public let tied: Bool  // the head is the embedding
    public let context: Int  // tokens seen in training
}

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
        guard (0...max(0, maxSinks)).contains(sinks) else {
            throw EdgesinkError(
                .badOption, "sinks = \(sinks)", expected: "0 to max_sinks = \(maxSinks)", remedy: "raise --max-sinks")
        }
        _ = try Ring(sinks: sinks, capacity: capacity, chunk: chunk)
        _ = try Ring(sinks: maxSinks, capacity: capacity, chunk: chunk)
    }

    /// C: tokens that a token sees at most; the same for every number of sinks.
    public var capacity: Int { sinks + window }

    /// Rows of every state buffer.
    public var rows: Int { capacity + chunk - 1 }

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
}

// MARK: - Reading

extension ModelSpec {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(
            json, place,
            required: [
                "name", "architecture", "layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab",
                "norm_eps", "rope", "tied", "context",
            ])
        name = try fields.string("name")
        architecture = try fields.string("architecture")
        layers = try fields.int("layers")
        hidden = try fields.int("hidden")
        heads = try fields.int("heads")
        kvHeads = try fields.int("kv_heads")
        headDim = try fields.int("head_dim")
        intermediate = try fields.int("intermediate")
        vocab = try fields.int("vocab")
        normEps = try fields.double("norm_eps")
        rope = try RopeSpec(fields.json("rope"), fields.place("rope"))
        tied = try fields.bool("tied")
        context = try fields.int("context")
        try asBundleFault(place) { try check() }
    }

    private func check() throws {
        let sizes = [
            ("layers", layers), ("hidden", hidden), ("heads", heads), ("kv_heads", kvHeads), ("head_dim", headDim),
            ("intermediate", intermediate), ("vocab", vocab), ("context", context),
        ]
        for (name, value) in sizes where value < 1 {
            throw EdgesinkError(.badOption, "model \(name) = \(value)", expected: "1 or more")
        }
        if heads % kvHeads != 0 || headDim % 2 != 0 {
            throw EdgesinkError(
                .badOption, "\(heads) query heads on \(kvHeads) key/value heads of \(headDim) dimensions",
                expected: "query heads divisible by key/value heads, and an even dimension")
        }
    }
}

extension RopeSpec {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(json, place, required: ["theta"], optional: ["scaling"])
        theta = try fields.double("theta")
        scaling =
            fields.isNull("scaling") ? nil : try Llama3Scaling(fields.json("scaling"), fields.place("scaling"))
    }
}

extension Llama3Scaling {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(
            json, place, required: ["factor", "low_freq_factor", "high_freq_factor", "original_context"])
        factor = try fields.double("factor")
        lowFreqFactor = try fields.double("low_freq_factor")
        highFreqFactor = try fields.double("high_freq_factor")
        originalContext = try fields.int("original_context")
    }
}

extension StreamSpec {
    init(_ json: JSON, _ place: String) throws {
        let names = ["sinks", "window", "max_sinks", "chunk", "positions"]
        let fields = try StrictFields(json, place, required: [], optional: names)
        func int(_ name: String, _ standard: Int) throws -> Int {
            fields.has(name) ? try fields.int(name) : standard
        }
        let (sinks, window) = (try int("sinks", 4), try int("window", 1020))
        let (maxSinks, chunk) = (try int("max_sinks", 128), try int("chunk", 64))
        let positions: Positions = fields.has("positions") ? try fields.choice("positions") : .cache
        self = try asBundleFault(place) {
            try StreamSpec(sinks: sinks, window: window, maxSinks: maxSinks, chunk: chunk, positions: positions)
        }
    }
}
