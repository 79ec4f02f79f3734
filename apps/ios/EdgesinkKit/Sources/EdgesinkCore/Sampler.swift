import Foundation

/// How the next token is chosen; the default is greedy. The twin of `runtime/sampling.py`.
public struct SamplingSpec: Equatable, Sendable {
    public var temperature = 0.0  // 0 is greedy
    public var topK = 0  // 0 keeps all
    public var topP = 1.0  // above 0, at most 1; 1 keeps all
    public var minP = 0.0  // 0 ..< 1, of the largest probability; 0 keeps all
    public var repetitionPenalty = 1.0  // 1e-6 ... 1e6, 1 is none
    public var repetitionWindow = 64  // ids looked back on
    public var seed: UInt64?  // nil: a fresh one

    public init() {}

    /// Throws `badOption` at the first value out of range.
    public func check() throws {
        let checks: [(String, String, Bool, String)] = [
            ("temperature", "\(temperature)", temperature >= 0, "0 or more"),
            ("top_k", "\(topK)", topK >= 0, "0 or more"),
            ("top_p", "\(topP)", 0 < topP && topP <= 1, "above 0, at most 1"),
            ("min_p", "\(minP)", 0 <= minP && minP < 1, "0 or more, below 1"),
            (
                "repetition_penalty", "\(repetitionPenalty)", (1e-6...1e6).contains(repetitionPenalty),
                "a factor from 1e-6 to 1e6"
            ),
            ("repetition_window", "\(repetitionWindow)", repetitionWindow >= 0, "0 or more"),
        ]
        for (name, value, fits, expected) in checks where !fits {
            throw EdgesinkError(.badOption, "\(name) = \(value)", expected: expected)
        }
    }
}

/// The seeded generator (Steele, Lea, Flood 2014): the same numbers in every language.
public struct SplitMix64: Sendable {
    private var state: UInt64

    public init(seed: UInt64) { state = seed }

    /// The next number in 0 ..< 1, 53 bits.
    public mutating func uniform() -> Double {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return Double((z ^ (z >> 31)) >> 11) * 0x1p-53
    }
}

/// From logits to the next token. Order of the filters: repetition penalty (Keskar et al. 2019), temperature, top-k,
/// top-p (Holtzman et al. 2019), min-p (Nguyen et al. 2024), each over the probabilities that the temperature left, ties
/// going to the lower id; then one uniform number picks from what is kept, walked in ascending id.
public struct Sampler: Sendable {
    public let spec: SamplingSpec
    private var generator: SplitMix64

    private static let firstCandidates = 256  // sorted before more are asked for

    public init(_ spec: SamplingSpec) throws {
        try spec.check()
        self.spec = spec
        generator = SplitMix64(seed: spec.seed ?? UInt64.random(in: .min ... .max))
    }

    /// The next id. `logits`: float32 [V]; `recent`: ids seen lately, newest last.
    ///
    /// Throws `badNumbers` where one is NaN or the largest is not a finite number; -infinity is no chance.
    public mutating func next(_ logits: [Float], recent: some Collection<Int>) throws -> Int {
        let logits = penalised(logits, recent)
        let best = Self.argmax(logits)
        guard !logits.isEmpty, logits[best].isFinite else {
            throw EdgesinkError(
                .badNumbers, "the logit of token id \(best) is \(logits.isEmpty ? "missing" : "\(logits[best])")",
                expected: "finite numbers", remedy: EdgesinkError.broken)
        }
        guard spec.temperature > 0 else { return best }
        let largest = Double(logits[best])
        let weights = logits.map { exp((Double($0) - largest) / spec.temperature) }  // [V], the largest is 1
        let kept = self.kept(weights)
        var cumulative: [Double] = []
        var sum = 0.0
        for id in kept {
            sum += weights[id]
            cumulative.append(sum)
        }
        let target = generator.uniform() * sum
        return kept[min(cumulative.firstIndex { $0 > target } ?? kept.count - 1, kept.count - 1)]
    }

    /// The first id of the largest logit, or of a NaN.
    public static func argmax(_ logits: [Float]) -> Int {
        logits.withUnsafeBufferPointer { logits in
            var best = 0
            for id in 1..<max(1, logits.count) where !(logits[id] <= logits[best]) {
                if logits[best].isNaN { break }
                best = id
            }
            return best
        }
    }

    private func penalised(_ logits: [Float], _ recent: some Collection<Int>) -> [Float] {
        guard spec.repetitionPenalty != 1, spec.repetitionWindow > 0 else { return logits }
        var logits = logits
        let penalty = Float(spec.repetitionPenalty)
        for id in Set(recent.suffix(spec.repetitionWindow)) {
            logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty
        }
        return logits
    }

    /// Ids that pass top-k, top-p and min-p, ascending. `weights`: unnormalised probabilities, largest 1.
    private func kept(_ weights: [Double]) -> [Int] {
        guard spec.topK > 0 || spec.topP < 1 else { return weights.indices.filter { weights[$0] >= spec.minP } }
        var count = spec.topK > 0 ? spec.topK : Self.firstCandidates
        let whole = weights.reduce(0, +)
        while true {
            let ids = Self.largest(weights, count)
            let mass = ids.reduce(0) { $0 + weights[$1] }
            let total = spec.topK > 0 ? mass : whole
            if spec.topK > 0 || mass >= spec.topP * total || ids.count == weights.count {
                return nucleus(ids, weights, upTo: spec.topP * total).filter { weights[$0] >= spec.minP }.sorted()
            }
            count *= 8
        }
    }

    /// The shortest front of `ids` whose weights reach `mass`.
    private func nucleus(_ ids: [Int], _ weights: [Double], upTo mass: Double) -> ArraySlice<Int> {
        var sum = 0.0
        for (i, id) in ids.enumerated() {
            sum += weights[id]
            if sum >= mass { return ids[...i] }
        }
        return ids[...]
    }

    /// The `count` ids of largest weight, descending, ties by ascending id.
    private static func largest(_ weights: [Double], _ count: Int) -> [Int] {
        var ids = Array(weights.indices)
        if count < weights.count {
            let threshold = nthLargest(weights, count)
            ids = ids.filter { weights[$0] >= threshold }
        }
        ids.sort { (weights[$0], $1) > (weights[$1], $0) }
        return Array(ids.prefix(count))
    }

    /// The n-th largest value (n >= 1), by Hoare's selection.
    private static func nthLargest(_ values: [Double], _ n: Int) -> Double {
        var values = values
        return values.withUnsafeMutableBufferPointer { values in
            var (low, high) = (0, values.count - 1)
            while low < high {
                let pivot = values[(low + high) / 2]
                var (i, j) = (low, high)
                while i <= j {
                    while values[i] > pivot { i += 1 }
                    while values[j] < pivot { j -= 1 }
                    if i <= j {
                        values.swapAt(i, j)
                        (i, j) = (i + 1, j - 1)
                    }
                }
                if n - 1 <= j { high = j } else if n - 1 >= i { low = i } else { break }
            }
            return values[n - 1]
        }
    }
}
