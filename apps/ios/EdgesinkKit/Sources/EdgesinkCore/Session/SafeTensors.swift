import Foundation

/// The safetensors file format, as far as session files and calibrations need it: eight bytes of header length, a JSON header, data.
package enum SafeTensors {
    package struct Damaged: Error, CustomStringConvertible {
        package let description: String
    }

    private static let names: [StateDtype: String] = [.float32: "F32", .float16: "F16"]
    private static let longestHeader = 100_000_000  // bytes, as the reference implementation allows

    package static func encoded(_ tensors: [StateTensor], _ metadata: [(String, String)]) -> Data {
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

    package static func decoded(_ file: Data) throws -> (tensors: [String: StateTensor], metadata: [String: String]) {
        guard file.count >= 8 else { throw Damaged(description: "shorter than its header") }
        let length = file.prefix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= longestHeader, 8 + Int(length) <= file.count else {
            throw Damaged(description: "a header of \(length) bytes")
        }
        let data = file.dropFirst(8 + Int(length))
        var tensors: [String: StateTensor] = [:]
        var metadata: [String: String] = [:]
        var ranges: [Range<Int>] = []
        for (name, value) in try fields(JSON.parse(file.dropFirst(8).prefix(Int(length))), "the header") {
            if name == "__metadata__" {
                for (key, item) in try fields(value, name) {
                    guard let text = item.string else { throw Damaged(description: "'\(key)' is no text") }
                    metadata[key] = text
                }
            } else {
                let range = try place(name, value, data.count)
                tensors[name] = try tensor(name, value, data.dropFirst(range.lowerBound).prefix(range.count))
                ranges.append(range)
            }
        }
        let ends = ranges.sorted { ($0.lowerBound, $0.upperBound) < ($1.lowerBound, $1.upperBound) }
        guard ends.map(\.lowerBound) + [data.count] == [0] + ends.map(\.upperBound) else {
            throw Damaged(description: "entries that overlap or do not fill the file")
        }
        return (tensors, metadata)
    }

    /// Those of an object, none of them twice.
    private static func fields(_ json: JSON, _ place: String) throws -> [(key: String, value: JSON)] {
        guard let fields = json.object else { throw Damaged(description: "\(place) is no object") }
        guard Set(fields.map(\.key)).count == fields.count else {
            throw Damaged(description: "\(place) has a field twice")
        }
        return fields
    }

    /// Where the bytes of an entry lie in the data.
    private static func place(_ name: String, _ json: JSON, _ count: Int) throws -> Range<Int> {
        let offsets = json["data_offsets"]?.array?.map(\.int) ?? []
        guard offsets.count == 2, let start = offsets[0], let end = offsets[1], 0 <= start, start <= end, end <= count
        else { throw Damaged(description: "an entry '\(name)' outside the file") }
        return start..<end
    }

    private static func tensor(_ name: String, _ json: JSON, _ bytes: Data) throws -> StateTensor {
        let sizes = json["shape"]?.array ?? []
        let shape = sizes.compactMap(\.int).filter { (0...largestSize).contains($0) }
        let spelled = json["dtype"]?.string ?? ""
        guard let dtype = names.first(where: { $0.value == spelled })?.key, shape.count == sizes.count,
            shape.reduce(Double(dtype.itemBytes), { $0 * Double($1) }) == Double(bytes.count)
        else { throw Damaged(description: "an entry '\(name)' that cannot be") }
        return StateTensor(name: name, dtype: dtype, shape: shape, bytes: Data(bytes))
    }
}
