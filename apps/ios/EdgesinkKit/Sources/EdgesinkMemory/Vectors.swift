/// Rows of numbers, one after the other: float32 [n, d].
public struct Rows: Equatable, Sendable {
    public let width: Int  // d
    public private(set) var numbers: [Float]

    public init(width: Int, _ numbers: [Float]) { (self.width, self.numbers) = (width, numbers) }

    /// n.
    public var count: Int { width > 0 ? numbers.count / width : 0 }

    subscript(_ row: Int) -> ArraySlice<Float> { numbers[(row * width)..<((row + 1) * width)] }

    /// Some of the rows.
    func picked(_ rows: [Int]) -> Rows { Rows(width: width, rows.flatMap { self[$0] }) }

    /// What `change` makes of each row.
    func mapped(_ change: (ArraySlice<Float>) -> [Float]) -> Rows {
        Rows(width: width, (0..<count).flatMap { change(self[$0]) })
    }

    /// float32 [d]: the rows added up, each times its weight.
    func summed(_ weights: [Float]) -> [Float] {
        var sum = [Float](repeating: 0, count: width)
        for (row, weight) in weights.enumerated() {
            for (place, number) in self[row].enumerated() { sum[place] += weight * number }
        }
        return sum
    }

    var mean: [Float] { summed([Float](repeating: 1, count: count)).map { $0 / Float(count) } }
}

extension Collection<Float> {
    func dot(_ other: some Collection<Float>) -> Float { zip(self, other).reduce(0) { $0 + $1.0 * $1.1 } }

    var length: Float { dot(self).squareRoot() }

    /// Of length 1; of one that is nothing, nothing.
    func normalised(least: Float = 1e-9) -> [Float] {
        let length = Swift.max(length, least)
        return map { $0 / length }
    }
}
