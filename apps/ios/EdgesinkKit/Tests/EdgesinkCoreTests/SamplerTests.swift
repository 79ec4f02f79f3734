import EdgesinkCore
import TestSupport
import Testing

@Suite("The sampler against tests/golden/sampler.json, drawn by Python")
struct SamplerTests {
    private static func spec(_ json: JSON) -> SamplingSpec {
        var spec = SamplingSpec()
        spec.temperature = json["temperature"]?.double ?? .nan
        spec.topK = json["top_k"]?.int ?? -1
        spec.topP = json["top_p"]?.double ?? .nan
        spec.minP = json["min_p"]?.double ?? .nan
        spec.repetitionPenalty = json["repetition_penalty"]?.double ?? .nan
        spec.repetitionWindow = json["repetition_window"]?.int ?? -1
        spec.seed = json["seed"]?.unsigned
        return spec
    }

    @Test func drawsWhatPythonDraws() throws {
        let golden = try Golden.json("sampler.json")
        let vocab = golden["vocab"]?.int ?? 0
        for run in Golden.list(golden["samplers"]) {
            let spec = Self.spec(run["spec"] ?? .null)
            var sampler = try Sampler(spec)
            var ids: [Int] = []
            for step in Golden.ints(run["ids"]).indices {
                let logits = (0..<vocab).map { Float((($0 * 37 + step * 11) % 53) - 26) / 8 }
                ids.append(try sampler.next(logits, recent: ids))
            }
            #expect(ids == Golden.ints(run["ids"]), "\(spec)")
        }
    }

    @Test func splitMix64GivesTheSameNumbers() throws {
        var generator = SplitMix64(seed: 42)
        let expected = Golden.list(try Golden.json("sampler.json")["splitmix64_seed_42"]).compactMap(\.double)
        #expect(expected.map { _ in generator.uniform() } == expected)
    }

    @Test func findsTheNucleusBeyondTheFirstCandidates() throws {
        var spec = SamplingSpec()
        (spec.temperature, spec.topP, spec.seed) = (1, 0.999, 0)
        var sampler = try Sampler(spec)
        let drawn = Set(
            try (0..<2000).map { _ in try sampler.next([Float](repeating: 0, count: 1000), recent: [Int]()) })
        #expect(drawn.count > 500)
        #expect(!drawn.contains(999))
    }

    @Test func penalisesWhatWasSeenLately() throws {
        var spec = SamplingSpec()
        (spec.repetitionPenalty, spec.repetitionWindow) = (2, 2)
        var sampler = try Sampler(spec)
        #expect(try sampler.next([4, 3, -1], recent: [Int]()) == 0)
        #expect(try sampler.next([4, 3, -1], recent: [0]) == 1)
        #expect(try sampler.next([4, 3, -1], recent: [0, 2, 2]) == 0)
    }

    @Test(arguments: [0, 0.7]) func drawsNothingFromWhatIsNotANumber(temperature: Double) throws {
        var spec = SamplingSpec()
        (spec.temperature, spec.seed) = (temperature, 1)
        var sampler = try Sampler(spec)
        for bad in [Float.nan, .infinity] {
            for place in [0, 2] {
                var logits: [Float] = [0, 1, 2, 3]
                logits[place] = bad
                let error = #expect(throws: EdgesinkError.self) { try sampler.next(logits, recent: [Int]()) }
                #expect(error?.kind == .badNumbers)
                #expect(error?.description.contains("token id \(place) is") == true)
            }
        }
        #expect(throws: EdgesinkError.self) { try sampler.next([], recent: [Int]()) }
        #expect(try sampler.next([-.infinity, 1], recent: [Int]()) == 1)
    }

    @Test func aVerySmallTemperatureIsGreedy() throws {
        for temperature in [Double.leastNonzeroMagnitude, 1e-45, 1e-6] {
            var spec = SamplingSpec()
            (spec.temperature, spec.topP, spec.seed) = (temperature, 0.9, 1)
            var sampler = try Sampler(spec)
            #expect(try sampler.next([0, 3, 1, 2], recent: [Int]()) == 1)
        }
    }

    @Test func refusesOptionsOutOfRange() {
        let faults: [(inout SamplingSpec) -> Void] = [
            { $0.temperature = -1 }, { $0.topK = -1 }, { $0.topP = 0 }, { $0.topP = 1.5 }, { $0.minP = 1 },
            { $0.repetitionPenalty = 0 }, { $0.repetitionPenalty = 1e39 }, { $0.temperature = .nan },
            { $0.repetitionWindow = -1 },
        ]
        for fault in faults {
            var spec = SamplingSpec()
            fault(&spec)
            #expect(throws: EdgesinkError.self) { try Sampler(spec) }
        }
    }
}
