import EdgesinkCore
import TestSupport
import Testing

@Suite("The ring against tests/golden/ring.json, written by hand")
struct RingTests {
    private static func ring(_ json: JSON) throws -> Ring {
        try Ring(
            sinks: json["sinks"]?.int ?? -1, capacity: json["capacity"]?.int ?? -1, chunk: json["chunk"]?.int ?? -1)
    }

    @Test func givesTheValuesWrittenByHand() throws {
        let rings = Golden.list(try Golden.json("ring.json")["rings"])
        #expect(rings.count >= 3)
        for golden in rings {
            let ring = try Self.ring(golden)
            #expect([ring.window, ring.slots, ring.rows] == ["window", "slots", "rows"].map { golden[$0]?.int })
            let functions: [(String, (Int) -> Int)] = [
                ("slot", ring.slot), ("frame", ring.frame), ("query_position", ring.queryPosition),
                ("evicted", ring.evicted),
            ]
            for (name, function) in functions {
                for pair in Golden.list(golden[name]) {
                    let (argument, expected) = (Golden.ints(pair)[0], Golden.ints(pair)[1])
                    #expect(function(argument) == expected, "\(name)(\(argument))")
                }
            }
            for pair in Golden.list(golden["visible"]) {
                let items = Golden.list(pair)
                #expect(ring.visible(items[0].int ?? -1) == Golden.ints(items[1]))
            }
            for pair in Golden.list(golden["held"]) {
                let items = Golden.list(pair)
                let held = (0..<ring.rows).map { ring.held($0, position: items[0].int ?? -1) }
                #expect(held == Golden.list(items[1]).map(\.int))
            }
            for pair in Golden.list(golden["chunks"]) {
                let items = Golden.list(pair)
                #expect(ring.chunks(items[0].int ?? -1) == Golden.ints(items[1]))
            }
        }
    }

    @Test func refusesARingThatCannotHoldAChunk() throws {
        for golden in Golden.list(try Golden.json("ring.json")["refused"]) {
            #expect(throws: EdgesinkError.self) { try Self.ring(golden) }
        }
    }

    @Test(arguments: [(0, 1, 1), (0, 7, 3), (1, 8, 7), (3, 9, 4)])
    func holdsEveryVisibleTokenWhenItsChunkIsWritten(sinks: Int, capacity: Int, chunk: Int) throws {
        let ring = try Ring(sinks: sinks, capacity: capacity, chunk: chunk)
        for start in 0..<(5 * ring.rows) {
            for token in start..<(start + chunk) {
                #expect(ring.visible(token).allSatisfy { ring.held(ring.slot($0), position: start + chunk) == $0 })
            }
        }
    }

    @Test func framesKeepSlotsAndNeverGrow() throws {
        let ring = try Ring(sinks: 3, capacity: 11, chunk: 4)
        for token in 0..<1000 {
            let frame = ring.frame(token)
            #expect(ring.slot(frame) == ring.slot(token))
            #expect(frame < ring.sinks + 2 * ring.slots)
            #expect(ring.queryPosition(frame) == ring.queryPosition(token))
        }
    }
}
