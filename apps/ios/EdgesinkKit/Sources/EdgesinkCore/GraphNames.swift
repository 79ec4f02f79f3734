/// The names at the edge of every exported graph; of states only what must be known, for a bundle's manifest has them. The
/// twin of `edgesink/names.py`.
public enum GraphNames {
    public static let ids = "ids"  // [1, T] int64; Core ML: int32
    public static let position = "position"  // [1] tokens fed before; Core ML: [views], the `Ring.frame` of each ring
    public static let sinks = "sinks"  // [1] sinks of this stream
    public static let length = "length"  // [1] Core ML's prefill only: how many of the ids are real
    public static let logits = "logits"  // [1, V], after the last real id; float32, Core ML: float16

    public static func updated(_ state: String) -> String { "\(state)_out" }

    /// Core ML with kv_write "host": rows to write to the state of a view, float16 [2 L, K, T, D].
    public static func newKv(_ view: Int) -> String { view == 0 ? "new_kv" : "new_kv_\(view)" }

    /// State of the values of a layer: [1, K, rows, D].
    public static func value(_ layer: Int) -> String { "value_\(layer)" }

    public static let decode = "decode"  // Core ML function of one id
    public static let prefill = "prefill"  // Core ML function of a whole chunk of ids
}

/// The files of a bundle that are opened by name.
public enum BundleFiles {
    public static let onnxGraph = "model.onnx"
    public static let coreMLPackage = "model.mlpackage"
    public static let tokenizer = "tokenizer.json"
    public static let calibration = "memory.safetensors"  // how a memory compares meanings; may be absent
    public static let goldenStream = "golden_stream.json"  // what the self-test at load repeats; may be absent
}
