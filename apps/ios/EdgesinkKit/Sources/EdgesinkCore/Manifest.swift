import Foundation

/// One file of a bundle.
public struct BundleFile: Equatable, Sendable {
    public let path: String  // relative to the bundle, forward slashes
    public let bytes: Int
    public let sha256: String
}

/// How close the artefact came to the PyTorch oracle, as `edgesink verify` measured it.
public struct Parity: Equatable, Sendable {
    public let tokens: Int
    public let maxAbsDiff: Double  // of logits
    public let meanAbsDiff: Double
    public let argmaxAgreement: Double  // 0 … 1
    public let passed: Bool
    public let runner: String
    public let date: String  // ISO
}

public enum Precision: String, Sendable { case fp32, fp16, int8, int4, pal4 }

/// How new keys and values reach the state. `host`: the runner writes them.
public enum KvWrite: String, CaseIterable, Sendable { case slice, blend, host }

public enum Target: String, Sendable {
    case onnx, coreml, coreai

    /// Rows of a state buffer are rounded up to a multiple of this; those beyond the ring's are never seen.
    var rowMultiple: Int { self == .coreml ? 32 : 1 }

    /// Empty where there is one way only.
    var kvWrites: [KvWrite] { self == .coreml ? KvWrite.allCases : [] }
}

/// What a bundle says of itself: `manifest.json`, read strictly. The twin of `edgesink/manifest.py`.
///
/// What runs a bundle needs nothing of its architecture, which is not read: a new family of models does not break an
/// app that is installed.
public struct Manifest: Equatable, Sendable {
    public static let format = 3
    public static let fileName = "manifest.json"

    public let target: Target
    public let name: String  // of the model, for people
    public let family: String  // as the checkpoint calls it
    public let vocab: Int  // V
    public let stream: StreamSpec
    public let views: [LayerRing]  // the rings that layers have, in the order of the graph's positions
    public let states: [StateSpec]
    public let precision: Precision
    public let weights: String  // how the weights are held, for people
    public let bosId: Int?  // put before a text that is not a chat, where the tokenizer does so
    public let eosIds: [Int]  // every id that ends an answer
    public let turns: Turns?  // how a conversation is written; nil: the model is not for one
    public let noTurns: String?  // why there are none
    public let files: [BundleFile]
    public let tools: [String: String]  // versions of what made the bundle
    public let parity: Parity?
    public let kvWrite: KvWrite?  // nil where the target has one way only
    public let vocabularyBits: Int  // of the embedding and the head, where the weights are quantised
    public let parts: Int  // packages that the layers are cut into, to be run one behind the other
    public let sinkTokenId: Int?  // what the model saw in front of everything: every stream begins with it
    public let stepWeightBytes: Int?  // of weights that one step reads; nil where they were not counted
    public let logitRows: Int?  // last tokens of a run whose logits an ONNX graph gives at most; nil: the last one's
    let float32InKernels: [String]?  // states that Python's kernels hold in float32; no other runner has kernels
    public let sampling: SamplingDefaults?  // that the model's makers recommend; nil: they say nothing

    /// The ids that every stream begins with, before anything is fed: the sink token, or none.
    public var prefix: [Int] { sinkTokenId.map { [$0] } ?? [] }

    /// Of every state: a bundle has one.
    public var stateDtype: StateDtype { states[0].dtype }

    /// Bytes of the key/value state: constant from the first token to the last.
    public var stateBytes: Int { states.reduce(0) { $0 + $1.bytes } }

    /// The ring of each view in a stream with `sinks` pinned tokens.
    public func rings(sinks: Int) throws -> [Ring] { try views.map { try stream.ring(of: $0, sinks: sinks) } }

    /// Bytes of the graph's files, weights included.
    public var weightBytes: Int { files.filter(Self.isModel).reduce(0) { $0 + $1.bytes } }

    /// SHA-256 of what decides the state's meaning; a session file carries it.
    public var fingerprint: String {
        let lines = files.filter(Self.isModel).map { "\($0.path) \($0.sha256)" }
        return SHA256Digest.of(Data(lines.sorted().joined(separator: "\n").utf8))
    }

    private static func isModel(_ file: BundleFile) -> Bool { file.path.hasPrefix("model.") }
}

// MARK: - Reading

extension Manifest {
    /// Read the manifest of the bundle folder.
    public static func read(_ bundle: URL) throws -> Manifest {
        let path = bundle.appending(path: fileName)
        guard let data = try? Data(contentsOf: path) else {
            throw EdgesinkError(
                .badBundle, "no \(fileName) in \(bundle.path)", expected: "a bundle folder",
                remedy: "make one with `edgesink export`")
        }
        return try Manifest(json: data)
    }

    /// Read strictly; the error says what is wrong and what to do.
    public init(json data: Data) throws {
        let json: JSON
        do { json = try JSON.parse(data) } catch {
            throw EdgesinkError(
                .badBundle, "\(Self.fileName) is not JSON (\(error))", remedy: Self.again)
        }
        let found = json["format"] ?? .null
        guard found.int == Self.format else {
            let newer = (found.int ?? 0) > Self.format
            throw EdgesinkError(
                .badBundle, "\(Self.fileName) has format \(found.shown)", expected: "format \(Self.format)",
                remedy: newer ? "update edgesink" : Self.again)
        }
        try self.init(json, Self.fileName)
    }

    private init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(
            json, place,
            [
                "target", "name", "family", "vocab", "stream", "views", "states", "precision", "weights", "bos_id",
                "eos_ids", "turns", "no_turns", "files", "tools", "architecture", "parity", "kv_write",
                "vocabulary_bits", "parts", "sink_token_id", "step_weight_bytes", "format",
            ], mayLack: ["sampling", "logit_rows", "float32_in_kernels"])
        target = try fields.choice("target")
        name = try fields.string("name")
        family = try fields.string("family")
        vocab = try fields.int("vocab")
        stream = try StreamSpec(fields.json("stream"), fields.place("stream"))
        views = try fields.list("views", LayerRing.init)
        states = try fields.list("states", StateSpec.init)
        precision = try fields.choice("precision")
        weights = try fields.string("weights")
        bosId = try fields.optional("bos_id", fields.int)
        eosIds = try fields.list("eos_ids", StrictFields.int)
        turns = try fields.optional("turns") { try Turns(fields.json($0), fields.place($0)) }
        noTurns = try fields.optional("no_turns", fields.string)
        files = try fields.list("files", BundleFile.init)
        tools = try fields.strings("tools")
        try fields.requireObject("architecture")
        parity = try fields.optional("parity") { try Parity(fields.json($0), fields.place($0)) }
        kvWrite = try fields.optional("kv_write") { try fields.choice($0) }
        vocabularyBits = try fields.int("vocabulary_bits")
        parts = try fields.int("parts")
        sinkTokenId = try fields.optional("sink_token_id", fields.int)
        stepWeightBytes = try fields.optional("step_weight_bytes", fields.int)
        logitRows = try fields.optional("logit_rows", fields.int)
        float32InKernels = try fields.optional("float32_in_kernels") { try fields.list($0, StrictFields.string) }
        sampling = try fields.optional("sampling") { try SamplingDefaults(fields.json($0), fields.place($0)) }
        try check()
    }

    /// What runs a single package refuses a model that is cut into several.
    public func requireOnePackage() throws {
        guard parts == 1 else {
            throw EdgesinkError(
                .badBundle, "a bundle cut into \(parts) packages", expected: "one package",
                remedy: "export without --parts")
        }
    }

    /// Hold every file of the folder against its size and SHA-256; the error names the first that differs.
    public func checkFiles(_ bundle: URL) throws {
        for file in files {
            let path = bundle.appending(path: file.path)
            guard let values = try? path.resourceValues(forKeys: [.isRegularFileKey, .fileSizeKey]),
                values.isRegularFile == true, let size = values.fileSize
            else {
                throw EdgesinkError(
                    .badBundle, "\(path.path) is missing", remedy: "copy or export the bundle again")
            }
            guard size == file.bytes else {
                throw EdgesinkError(
                    .badBundle, "\(path.path) has \(size) bytes", expected: "\(file.bytes)",
                    remedy: "copy or export the bundle again")
            }
            guard try SHA256Digest.of(file: path) == file.sha256 else {
                throw EdgesinkError(
                    .badBundle, "\(path.path) has been altered", expected: "SHA-256 \(file.sha256)",
                    remedy: "copy or export it again")
            }
        }
    }
}

extension BundleFile {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(json, place, ["path", "bytes", "sha256"])
        path = try fields.string("path")
        bytes = try fields.int("bytes")
        sha256 = try fields.string("sha256")
        let parts = path.split(separator: "/").filter { $0 != "." }
        if path.hasPrefix("/") || path.contains("\\") || parts.isEmpty || parts.contains("..") {
            throw EdgesinkError(
                .badBundle, "the manifest names \(JSON.string(path).shown)", expected: "a path inside the bundle",
                remedy: "do not trust this bundle")
        }
        guard (0...Manifest.largestBytes).contains(bytes) else {
            throw EdgesinkError(
                .badBundle, "\(path) of \(bytes) bytes", expected: "0 to \(Manifest.largestBytes)",
                remedy: Manifest.again)
        }
    }
}

extension Parity {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(
            json, place,
            [
                "tokens", "max_abs_diff", "mean_abs_diff", "argmax_agreement", "passed", "runner", "date",
            ])
        tokens = try fields.int("tokens")
        maxAbsDiff = try fields.double("max_abs_diff")
        meanAbsDiff = try fields.double("mean_abs_diff")
        argmaxAgreement = try fields.double("argmax_agreement")
        passed = try fields.bool("passed")
        runner = try fields.string("runner")
        date = try fields.string("date")
    }
}
