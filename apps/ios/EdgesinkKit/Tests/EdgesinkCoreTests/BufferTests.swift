import EdgesinkCore
import Foundation
import TestSupport
import Testing

@Suite("Buffers as Core ML lays them out")
struct BufferTests {
    #if !(os(macOS) && arch(x86_64))
        @Test func everyHalfIsTheFloatThatItStandsFor() {
            for bits in UInt16.min...UInt16.max {
                let (got, expected) = (HalfFloat.float(bits), Float(Float16(bitPattern: bits)))
                #expect(got == expected || (got.isNaN && expected.isNaN), "\(bits)")
                #expect(got.sign == expected.sign)
            }
        }
    #endif

    @Test func packsAndUnpacksRowsOfAPaddedLayout() throws {
        // [2, 1, 2, 3] bytes, rows 4 apart, blocks 16 apart
        let rows = try StridedRows(shape: [2, 1, 2, 3], strides: [16, 16, 4, 1], itemBytes: 1)
        var memory = [UInt8](repeating: 9, count: 32)
        memory.withUnsafeMutableBytes { rows.unpack(Data(0..<12), into: $0) }
        #expect(memory[0..<8] == [0, 1, 2, 9, 3, 4, 5, 9])
        #expect(memory[16..<24] == [6, 7, 8, 9, 9, 10, 11, 9])
        #expect(memory.withUnsafeBytes { rows.packed($0) } == Data(0..<12))
    }

    @Test func copiesTheRowsOfOneTokenToTheirSlot() throws {
        let new = try StridedRows(shape: [2, 1, 2, 2], strides: [4, 4, 2, 1], itemBytes: 2)
        let state = try StridedRows(shape: [2, 1, 3, 2], strides: [6, 6, 2, 1], itemBytes: 2)
        let source = (0..<8).map(UInt16.init)
        var memory = [UInt16](repeating: 99, count: 12)
        source.withUnsafeBytes { bytes in
            memory.withUnsafeMutableBytes { new.copyRow(1, of: bytes, to: 2, state, $0) }
        }
        #expect(memory == [99, 99, 99, 99, 2, 3, 99, 99, 99, 99, 6, 7])
    }

    @Test func refusesRowsThatAreNotTheManifests() throws {
        let state = try Manifest(json: Data(Golden.manifest("two_views").text.utf8)).states[1]  // [6, 2, 32, 16]
        let whole = try StridedRows(shape: [6, 2, 32, 16], strides: [1024, 512, 16, 1], itemBytes: 2)
        try whole.require(state)
        try StridedRows(shape: [6, 2, 8, 16], strides: [256, 128, 16, 1], itemBytes: 2).require(state, rows: 8)
        #expect(throws: EdgesinkError.self) { try whole.require(state, rows: 8) }
        for shape in [[6, 2, 64, 16], [4, 2, 32, 16], [6, 1, 32, 16], [6, 2, 32, 8]] {
            let other = try StridedRows(shape: shape, strides: [1024, 512, 16, 1], itemBytes: 2)
            #expect(throws: EdgesinkError.self) { try other.require(state) }
        }
    }

    @Test func refusesALayoutThatIsNotOfRows() {
        #expect(throws: EdgesinkError.self) { try StridedRows(shape: [2, 3], strides: [3, 1], itemBytes: 2) }
        #expect(throws: EdgesinkError.self) {
            try StridedRows(shape: [1, 1, 2, 2], strides: [4, 4, 1, 2], itemBytes: 2)
        }
    }
}
