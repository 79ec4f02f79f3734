/// How fast tokens come: time to the first, and the rate over the last few.
public struct TokenMeter: Sendable {
    private let clock = ContinuousClock()
    private let start: ContinuousClock.Instant
    private var times: [ContinuousClock.Instant] = []  // of the last tokens
    public private(set) var tokens = 0
    public private(set) var firstTokenSeconds: Double?

    public static let rollingTokens = 32

    /// Starts the clock: call where the prompt is handed over.
    public init() { start = clock.now }

    public mutating func count() {
        let now = clock.now
        if tokens == 0 { firstTokenSeconds = (now - start).inSeconds }
        tokens += 1
        times.append(now)
        if times.count > Self.rollingTokens { times.removeFirst() }
    }

    /// Tokens a second over the last few; nil before the second token.
    public var tokensPerSecond: Double? {
        guard let first = times.first, let last = times.last, last > first else { return nil }
        return Double(times.count - 1) / (last - first).inSeconds
    }
}

extension Duration {
    public var inSeconds: Double {
        let (seconds, attoseconds) = components
        return Double(seconds) + Double(attoseconds) * 1e-18
    }
}
