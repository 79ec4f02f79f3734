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

    /// Read what `write` wrote; `like` gives the names, types and shapes of the bundle's state.
    public init(reading file: URL, fingerprint: String, like: [StateTensor]) throws {
        guard let data = try? Data(contentsOf: file, options: .mappedIfSafe) else {
            throw EdgesinkError(.badSession, "no session file \(file.path)", remedy: "save one first")
        }
        func damaged(_ what: String) -> EdgesinkError {
            EdgesinkError(
                .badSession, "\(file.path) is damaged (\(what))", remedy: "restore a copy, or start a new session")
        }
        let (tensors, metadata): ([String: StateTensor], [String: String])
        do { (tensors, metadata) = try SafeTensors.decoded(data) } catch { throw damaged("\(error)") }
        guard metadata["edgesink_session"] == Self.format else {
            throw EdgesinkError(
                .badSession, "\(file.path) is not a session file of this version", expected: "format \(Self.format)",
                remedy: "start a new session")
        }
        guard metadata["fingerprint"] == fingerprint else {
            throw EdgesinkError(
                .badSession, "\(file.path) belongs to another bundle", remedy: "load the bundle that it was saved with")
        }
        guard let position = metadata["position"].flatMap(Int.init), position >= 0,
            let sinks = metadata["sinks"].flatMap(Int.init)
        else { throw damaged("no position or no sinks") }
        let state = try like.map { whole in
            guard let rows = tensors[whole.name], rows.fits(whole), rows.shape[2] == min(position, whole.shape[2])
            else {
                throw damaged("\(whole.name) does not fit \(whole.dtype.rawValue)\(whole.shape)")
            }
            return StateTensor(
                name: whole.name, dtype: whole.dtype, shape: whole.shape,
                bytes: rows.rows(resizedTo: whole.shape[2]))
        }
        self.init(fingerprint: fingerprint, position: position, sinks: sinks, state: state)
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

    fileprivate func fits(_ whole: StateTensor) -> Bool {
        dtype == whole.dtype && shape.count == 4 && shape[0] == whole.shape[0] && shape[1] == whole.shape[1]
            && shape[2] <= whole.shape[2] && shape[3] == whole.shape[3]
    }
}
