import Foundation

/// Rows of a buffer [A, K, rows, D] that a runtime has laid out as it likes: the last axis is dense, the others are
/// given by their strides.
public struct StridedRows: Equatable, Sendable {
    public let shape: [Int]  // [A, K, rows, D]
    public let strides: [Int]  // in items
    public let itemBytes: Int

    /// Throws `badBundle` for a layout that is not of rows.
    public init(shape: [Int], strides: [Int], itemBytes: Int) throws {
        guard shape.count == 4, strides.count == 4, strides[3] == 1 || shape[3] == 1 else {
            throw EdgesinkError(
                .badBundle, "a state of shape \(shape), strides \(strides)", expected: "four axes, the last one dense",
                remedy: "try other compute units")
        }
        (self.shape, self.strides, self.itemBytes) = (shape, strides, itemBytes)
    }

    /// Throws `badBundle` unless the shape is that of a state; of `rows`, where they are given, and not the state's.
    public func require(_ state: StateSpec, rows: Int? = nil) throws {
        var expected = state.shape
        expected[2] = rows ?? expected[2]
        guard shape == expected else {
            throw EdgesinkError(
                .badBundle, "keys and values of shape \(shape)", expected: "\(expected)",
                remedy: "export the bundle again")
        }
    }

    private var rowBytes: Int { shape[3] * itemBytes }

    private func offset(_ block: Int, _ head: Int, _ row: Int) -> Int {
        (block * strides[0] + head * strides[1] + row * strides[2]) * itemBytes
    }

    /// A dense copy.
    public func packed(_ memory: UnsafeRawBufferPointer) -> Data {
        var out = Data(capacity: shape[0] * shape[1] * shape[2] * rowBytes)
        forEachRow { block, head, row in
            let start = offset(block, head, row)
            out.append(contentsOf: memory[start..<(start + rowBytes)])
        }
        return out
    }

    /// Overwrites all rows with those of a dense copy.
    public func unpack(_ data: Data, into memory: UnsafeMutableRawBufferPointer) {
        data.withUnsafeBytes { source in
            var at = 0
            forEachRow { block, head, row in
                copy(source, at, memory, offset(block, head, row))
                at += rowBytes
            }
        }
    }

    /// Copies row `from` of every block and head to row `to` of a buffer of the same blocks, heads and row length.
    public func copyRow(
        _ from: Int, of source: UnsafeRawBufferPointer, to: Int, _ target: StridedRows,
        _ memory: UnsafeMutableRawBufferPointer
    ) {
        for block in 0..<shape[0] {
            for head in 0..<shape[1] {
                copy(source, offset(block, head, from), memory, target.offset(block, head, to))
            }
        }
    }

    private func copy(
        _ source: UnsafeRawBufferPointer, _ from: Int, _ target: UnsafeMutableRawBufferPointer, _ to: Int
    ) {
        UnsafeMutableRawBufferPointer(rebasing: target[to..<(to + rowBytes)])
            .copyMemory(from: UnsafeRawBufferPointer(rebasing: source[from..<(from + rowBytes)]))
    }

    private func forEachRow(_ body: (Int, Int, Int) -> Void) {
        for block in 0..<shape[0] {
            for head in 0..<shape[1] {
                for row in 0..<shape[2] { body(block, head, row) }
            }
        }
    }
}
