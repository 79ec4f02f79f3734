import Foundation

/// A stream on disk: its position, its sinks and its state, in a safetensors file that `runtime/session_file.py` reads
/// and writes as well. Buffers are cut to the rows that were ever written.
public struct SavedSession: Sendable {
    public let fingerprint: String  // of the bundle's model files
    public let position: Int
    public let sinks: Int
    public let state: [StateTensor]  // whole buffers

    static let format = "1"

    public init(fingerprint: String, position: Int, sinks: Int, state: [StateTensor]) {
        (self.fingerprint, self.position, self.sinks, self.state) = (fingerprint, position, sinks, state)
    }

    /// Write beside `file` and rename into place; an error leaves nothing behind.
    public func write(to file: URL) throws {
        let metadata = [
            ("edgesink_session", Self.format), ("fingerprint", fingerprint), ("position", "\(position)"),
            ("sinks", "\(sinks)"),
        ]
        let tensors = state.map { tensor in
            var shape = tensor.shape
            shape[2] = min(position, shape[2])
            return StateTensor(
                name: tensor.name, dtype: tensor.dtype, shape: shape, bytes: tensor.rows(resizedTo: shape[2]))
        }
        do {
            try SafeTensors.encoded(tensors, metadata).write(to: file, options: .atomic)
        } catch {
            throw EdgesinkError(
                .noSpace, "\(file.path) cannot be written (\(error.localizedDescription))",
                remedy: "choose another place or free some disk")
        }
    }

    /// Read what `write` wrote; `like` gives the names, types and shapes of the state.
    ///
    /// Throws `badSession` for no such file, one of another bundle, or one that no stream can have written.
    public init(reading file: URL, of manifest: Manifest, like: [StateTensor]) throws {
        guard let data = try? Data(contentsOf: file, options: .mappedIfSafe) else {
            throw EdgesinkError(.badSession, "no session file \(file.path)", remedy: "save one first")
        }
        do {
            let (tensors, metadata) = try SafeTensors.decoded(data)
            let header = try Header(metadata, of: manifest, in: file)
            let state = try Self.whole(tensors, like, position: header.position)
            self.init(
                fingerprint: header.fingerprint, position: header.position, sinks: header.sinks, state: state)
        } catch let error as EdgesinkError {
            throw error
        } catch {
            throw EdgesinkError(
                .badSession, "\(file.path) is damaged (\(error))", remedy: "restore a copy, or start a new session")
        }
    }

    /// The saved rows of every state at the front of whole buffers.
    private static func whole(
        _ tensors: [String: StateTensor], _ like: [StateTensor], position: Int
    ) throws -> [StateTensor] {
        let names = Set(like.map(\.name))
        if let odd = names.symmetricDifference(tensors.keys).min() {
            throw Damaged("\(odd) is \(names.contains(odd) ? "missing" : "no state of the bundle")")
        }
        return try like.map { whole in
            var expected = whole.shape
            expected[2] = min(position, whole.shape[2])
            guard let rows = tensors[whole.name], rows.dtype == whole.dtype, rows.shape == expected else {
                throw Damaged("\(whole.name) is not \(whole.dtype.rawValue)\(expected)")
            }
            guard rows.isFinite else { throw Damaged("\(whole.name) holds numbers that are not finite") }
            let bytes = rows.rows(resizedTo: whole.shape[2])
            return StateTensor(name: whole.name, dtype: whole.dtype, shape: whole.shape, bytes: bytes)
        }
    }
}

/// Why a session file is damaged.
private struct Damaged: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

/// What a session file says of its stream.
private struct Header {
    let fingerprint: String
    let position: Int
    let sinks: Int

    static let names: Set = ["edgesink_session", "fingerprint", "position", "sinks"]

    /// Tokens of a stream that is taken up again: a runner's phases count to 2^53 in doubles, so half are still to come.
    static let mostPosition = 1 << 52

    init(_ metadata: [String: String], of manifest: Manifest, in file: URL) throws {
        guard metadata["edgesink_session"] == SavedSession.format else {
            throw EdgesinkError(
                .badSession, "\(file.path) is not a session file of this version",
                expected: "format \(SavedSession.format)", remedy: "start a new session")
        }
        guard Set(metadata.keys) == Self.names else {
            throw Damaged("its header has the fields \(metadata.keys.sorted().joined(separator: ", "))")
        }
        fingerprint = manifest.fingerprint
        guard metadata["fingerprint"] == fingerprint else {
            throw EdgesinkError(
                .badSession, "\(file.path) belongs to another bundle", remedy: "load the bundle that it was saved with")
        }
        position = try Self.number("position", metadata, Self.mostPosition)
        sinks = try Self.number("sinks", metadata, manifest.stream.maxSinks)
    }

    /// A number from 0 to `most`, written as Python and Swift write it.
    private static func number(_ name: String, _ metadata: [String: String], _ most: Int) throws -> Int {
        let text = metadata[name] ?? ""
        guard let value = Int(text), (0...most).contains(value), "\(value)" == text else {
            throw Damaged("\(name) '\(text.prefix(40))' is no whole number from 0 to \(most)")
        }
        return value
    }
}

extension StateTensor {
    /// The bytes with the third axis cut, or filled up with zeros, to `rows`.
    func rows(resizedTo rows: Int) -> Data {
        let rowBytes = shape[3] * dtype.itemBytes
        let (old, new) = (shape[2] * rowBytes, rows * rowBytes)
        var out = Data(capacity: shape[0] * shape[1] * new)
        for block in 0..<(shape[0] * shape[1]) {
            let start = bytes.startIndex + block * old
            out += bytes[start..<(start + min(old, new))]
            if new > old { out += Data(count: new - old) }
        }
        return out
    }

    /// No number is infinite or none.
    fileprivate var isFinite: Bool {
        bytes.withUnsafeBytes { memory in
            switch dtype {
            case .float32:
                stride(from: 0, to: memory.count, by: 4).allSatisfy {
                    memory.loadUnaligned(fromByteOffset: $0, as: UInt32.self) & 0x7F80_0000 != 0x7F80_0000
                }
            case .float16:
                stride(from: 0, to: memory.count, by: 2).allSatisfy {
                    memory.loadUnaligned(fromByteOffset: $0, as: UInt16.self) & 0x7C00 != 0x7C00
                }
            }
        }
    }
}
