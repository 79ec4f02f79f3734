import Foundation

/// The safetensors file format, as far as a session file needs it: eight bytes of header length, a JSON header, data.
enum SafeTensors {
    struct Damaged: Error, CustomStringConvertible {
        let description: String
    }

    private static let names: [StateDtype: String] = [.float32: "F32", .float16: "F16"]
    private static let longestHeader = 100_000_000  // bytes, as the reference implementation allows

    static func encoded(_ tensors: [StateTensor], _ metadata: [(String, String)]) -> Data {
        var fields: [(key: String, value: JSON)] = [
            ("__metadata__", .object(metadata.map { (key: $0.0, value: .string($0.1)) }))
        ]
        var offset = 0
        for tensor in tensors {
            let end = offset + tensor.bytes.count
            let entry: [(key: String, value: JSON)] = [
                ("dtype", .string(names[tensor.dtype] ?? "")), ("shape", .ints(tensor.shape)),
                ("data_offsets", .ints([offset, end])),
            ]
            fields.append((tensor.name, .object(entry)))
            offset = end
        }
        var header = Data(JSON.object(fields).text.utf8)
        header += Data(repeating: 0x20, count: (8 - header.count % 8) % 8)
        var file = Data((0..<8).map { UInt8(truncatingIfNeeded: header.count >> (8 * $0)) })
        file += header
        for tensor in tensors { file += tensor.bytes }
        return file
    }

    static func decoded(_ file: Data) throws -> (tensors: [String: StateTensor], metadata: [String: String]) {
        guard file.count >= 8 else { throw Damaged(description: "shorter than its header") }
        let length = file.prefix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= longestHeader, 8 + Int(length) <= file.count else {
            throw Damaged(description: "a header of \(length) bytes")
        }
        let data = file.dropFirst(8 + Int(length))
        var tensors: [String: StateTensor] = [:]
        var metadata: [String: String] = [:]
        for (name, value) in try JSON.parse(file.dropFirst(8).prefix(Int(length))).object ?? [] {
            if name == "__metadata__" {
                for (key, item) in value.object ?? [] { metadata[key] = item.string }
            } else {
                tensors[name] = try tensor(name, value, data)
            }
        }
        return (tensors, metadata)
    }

    private static func tensor(_ name: String, _ json: JSON, _ data: Data) throws -> StateTensor {
        let shape = json["shape"]?.array?.compactMap(\.int) ?? []
        let offsets = json["data_offsets"]?.array?.compactMap(\.int) ?? []
        let spelled = json["dtype"]?.string ?? ""
        guard let dtype = names.first(where: { $0.value == spelled })?.key, offsets.count == 2, 0 <= offsets[0],
            offsets[0] <= offsets[1], offsets[1] <= data.count, shape.allSatisfy({ (0...(1 << 31)).contains($0) }),
            shape.reduce(Double(dtype.itemBytes), { $0 * Double($1) }) == Double(offsets[1] - offsets[0])
        else { throw Damaged(description: "an entry '\(name)' that cannot be") }
        let bytes = data[(data.startIndex + offsets[0])..<(data.startIndex + offsets[1])]
        return StateTensor(name: name, dtype: dtype, shape: shape, bytes: Data(bytes))
    }
}
