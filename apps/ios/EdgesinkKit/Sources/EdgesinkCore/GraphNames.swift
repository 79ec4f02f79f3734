/// The names at the edge of every exported graph, in one place: `edgesink/names.py` for ONNX, and what the Core ML
/// exporter writes.
public enum GraphNames {
    public static let ids = "ids"  // [1, T] int64; Core ML: int32
    public static let position = "position"  // [1] tokens fed before; Core ML: `Ring.frame` of it
    public static let sinks = "sinks"  // [1] sinks of this stream
    public static let length = "length"  // [1] Core ML's prefill only: how many of the ids are real
    public static let logits = "logits"  // [1, V], after the last real id; float32, Core ML: float16

    public static func key(_ layer: Int) -> String { "key_\(layer)" }  // [1, K, rows, D]
    public static func value(_ layer: Int) -> String { "value_\(layer)" }  // [1, K, rows, D]
    public static func updated(_ state: String) -> String { "\(state)_out" }

    public static let kvCache = "kv_cache"  // Core ML's one state, float16 [2 L, K, rows, D]
    public static let newKv = "new_kv"  // Core ML with kv_write "host": rows to write, float16 [2 L, K, T, D]
    public static let decode = "decode"  // Core ML function of one id
    public static let prefill = "prefill"  // Core ML function of a whole chunk of ids
}

/// The files of a bundle that are opened by name.
public enum BundleFiles {
    public static let onnxGraph = "model.onnx"
    public static let coreMLPackage = "model.mlpackage"
    public static let tokenizer = "tokenizer.json"
    public static let chatTemplate = "chat_template.jinja"
    public static let goldenStream = "golden_stream.json"  // what the self-test at load repeats; may be absent
}
