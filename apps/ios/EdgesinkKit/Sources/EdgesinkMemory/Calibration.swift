import EdgesinkCore
import Foundation

/// How meanings are compared with one model: the layer whose value rows are read, their scale, and two thresholds. The
/// twin of `edgesink/memory/calibration.py`, whose files it reads; `edgesink memory calibrate` makes them.
public struct Calibration: Sendable {
    /// What it says in single numbers.
    struct Numbers: Equatable {
        let layer: Int  // whose value rows are compared
        let gateLayer: Int  // whose value rows say whether a message asks for something that was told
        let asks: Double  // least of the gate's first number: not small talk, and no question about the world
        let isQuestion: Double  // least of its second: not something that is being told
        let least: Double  // 0 … 1, least likeness of a passage to a question
    }

    static let full: Float = 127  // an int8 vector's largest component, by size
    static let format = "1"

    public let name: String  // changes with the vectors that it makes
    let numbers: Numbers
    let mean: [Float]  // [d], of value rows of `layer`; d is K D
    let scale: [Float]  // [d], 1 / their standard deviation
    let gateMean: [Float]  // [d], of value rows of `gateLayer`
    let gate: Rows  // [2, d], directions
    let gateOffset: [Float]  // [2]

    /// Value rows of `layer` [n, d] as vectors of length 1.
    func vectors(_ rows: Rows) -> Rows {
        rows.mapped { row in
            zip(zip(row, mean), scale).map { ($0.0 - $0.1) * $1 }.normalised()
        }
    }

    /// Value rows as they are kept.
    func packed(_ rows: Rows) -> PackedVectors {
        let vectors = vectors(rows)
        return PackedVectors(
            tokens: (0..<vectors.count).flatMap { Self.eightBits(vectors[$0]) }, mean: Self.eightBits(vectors.mean[...])
        )
    }

    /// Whether a message asks for something that was told, by its value rows of `gateLayer` [n, d].
    func letsThrough(_ rows: Rows) -> Bool {
        let wants = wants(rows)
        return Double(wants[0]) >= numbers.asks && Double(wants[1]) >= numbers.isQuestion
    }

    /// How much surer the gate is than it must be that a message asks for something that was told.
    func surer(_ rows: Rows) -> Double { Double(wants(rows)[0]) - numbers.asks }

    /// What the gate says of a message: float32 [2].
    func wants(_ rows: Rows) -> [Float] {
        let centred = zip(rows.mean, gateMean).map { $0 - $1 }
        return (0..<gate.count).map { gate[$0].dot(centred) + gateOffset[$0] }
    }

    private static func eightBits(_ vector: ArraySlice<Float>) -> [Int8] {
        let largest = vector.reduce(0) { max($0, abs($1)) }
        let factor = full / max(largest, 1e-9)
        return vector.map { Int8(($0 * factor).rounded(.toNearestOrEven)) }
    }
}

// MARK: - Reading

extension Calibration {
    /// The calibration of a bundle in a file; `badMemory` if it is damaged, of another version or another bundle.
    public init(reading file: URL, of manifest: Manifest) throws {
        guard let data = try? Data(contentsOf: file) else {
            throw EdgesinkError(
                .badMemory, "no calibration at \(file.path)", expected: "a file of `edgesink memory calibrate`")
        }
        do {
            let (tensors, header) = try SafeTensors.decoded(data)
            try Self.requireKnown("field", header.keys, ["edgesink_memory", "name", "numbers"])
            guard header["edgesink_memory"] == Self.format else { throw Unusable("it is of another version") }
            try Self.requireKnown("tensor", tensors.keys, ["mean", "scale", "gate_mean", "gate", "gate_offset"])
            name = header["name"] ?? ""
            numbers = try Numbers(header["numbers"] ?? "")
            guard name.hasPrefix("\(manifest.fingerprint.prefix(16)):") else {
                throw Unusable("it is of another bundle: '\(name.prefix(60))'")
            }
            let width = try manifest.valueWidth("layer", numbers.layer)
            let gateWidth = try manifest.valueWidth("gate_layer", numbers.gateLayer)
            func array(_ name: String, _ shape: [Int]) throws -> [Float] { try tensors[name].numbers(name, shape) }
            (mean, scale) = (try array("mean", [width]), try array("scale", [width]))
            gateMean = try array("gate_mean", [gateWidth])
            gate = Rows(width: gateWidth, try array("gate", [2, gateWidth]))
            gateOffset = try array("gate_offset", [2])
        } catch {
            throw EdgesinkError(
                .badMemory, "\(file.path) cannot be used (\(error))", remedy: "run `edgesink memory calibrate` again")
        }
    }

    /// The calibration that came with a bundle (`edgesink memory calibrate MODEL --for BUNDLE`); nil if its manifest names
    /// none, `badMemory` if it is damaged, of another version or another bundle.
    public static func ofBundle(_ bundle: URL, _ manifest: Manifest) throws -> Calibration? {
        guard manifest.files.contains(where: { $0.path == BundleFiles.calibration }) else { return nil }
        return try Calibration(reading: bundle.appending(path: BundleFiles.calibration), of: manifest)
    }

    /// An error unless exactly those that are known were found.
    fileprivate static func requireKnown(_ what: String, _ found: some Sequence<String>, _ known: Set<String>) throws {
        let found = Set(found)
        if let unknown = found.subtracting(known).min() {
            throw Unusable("the unknown \(what) '\(unknown.prefix(60))'")
        }
        if let missing = known.subtracting(found).min() { throw Unusable("no \(what) '\(missing)'") }
    }
}

/// Why a calibration cannot be used.
private struct Unusable: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

extension Calibration.Numbers {
    private static let names: Set = ["layer", "gate_layer", "asks", "is_question", "least", "found", "passed"]

    fileprivate init(_ text: String) throws {
        let json = try JSON.parse(text.utf8)
        guard let fields = json.object else { throw Unusable("its numbers are no object") }
        try Calibration.requireKnown("number", fields.map(\.key), Self.names)
        guard fields.count == Self.names.count else { throw Unusable("a number that stands in it twice") }
        func whole(_ name: String) throws -> Int {
            guard let value = json[name]?.int, value >= 0 else {
                throw Unusable("\(name) is \(json[name]?.shown ?? ""), not a whole number")
            }
            return value
        }
        func number(_ name: String) throws -> Double {
            guard let value = json[name]?.double, value.isFinite else {
                throw Unusable("\(name) is \(json[name]?.shown ?? ""), not a number")
            }
            return value
        }
        _ = (try number("found"), try number("passed"))
        self.init(
            layer: try whole("layer"), gateLayer: try whole("gate_layer"), asks: try number("asks"),
            isQuestion: try number("is_question"), least: try number("least"))
    }
}

extension StateTensor? {
    /// The numbers of a float32 tensor of a shape, all of them finite.
    fileprivate func numbers(_ name: String, _ shape: [Int]) throws -> [Float] {
        guard let tensor = self, tensor.dtype == .float32, tensor.shape == shape else {
            throw Unusable("\(name) has shape \(self?.shape ?? []), not \(shape) of float32")
        }
        let numbers = tensor.bytes.withUnsafeBytes { bytes in
            stride(from: 0, to: bytes.count, by: 4).map { bytes.loadUnaligned(fromByteOffset: $0, as: Float.self) }
        }
        guard numbers.allSatisfy(\.isFinite) else { throw Unusable("numbers that are not finite") }
        return numbers
    }
}

extension Manifest {
    /// K D of a layer's value rows.
    fileprivate func valueWidth(_ field: String, _ layer: Int) throws -> Int {
        guard let place = try? values(ofLayer: layer) else {
            throw Unusable("\(field) \(layer) is no layer of the model")
        }
        return place.state.shape[1] * place.state.shape[3]
    }
}
