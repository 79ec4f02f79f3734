import Foundation

/// What only a device can tell, as one JSON: golden tokens, speed, memory and heat over minutes of endless generation.
public struct DeviceCheck: Sendable {
    public var duration = Duration.seconds(600)
    public var interval = Duration.seconds(60)  // a line of the report each
    public var prefillTokens = 512
    public var goldenTokens = 64

    private static let prompt = "Write a story that never ends. It begins with a harbour at dawn"

    public init() {}

    /// Runs the check on a session that nothing else uses; the stream is reset before and after.
    ///
    /// `facts`: what the caller knows (device, compute units, seconds to load), written as they are. Cancelling the task
    /// ends the run early; what was measured until then is reported.
    public func run(
        _ session: StreamSession, tokenizer: Tokenizer, golden: GoldenStream?, facts: [(key: String, value: JSON)],
        progress: @Sendable (String) -> Void = { _ in }
    ) async throws -> JSON {
        let start = MemoryGauge.footprintBytes()
        var report: [(key: String, value: JSON)] = [("format", .int(1))]
        report += facts + Self.facts(session.manifest)
        progress("golden tokens")
        report.append(("golden", try await agreement(session, golden)))
        progress("prefill")
        report.append(("prefill_tokens_per_second", .double(try await prefillSpeed(session, tokenizer))))
        try await session.reset()
        let (lines, meter) = try await stream(session, tokenizer, progress)
        let status = await session.status
        report += [
            ("first_token_seconds", .double(meter.firstTokenSeconds)), ("tokens", .int(status.position)),
            ("forgotten", .int(status.forgotten)),
            ("footprint_before_bytes", start.map(JSON.int) ?? .null), ("intervals", .array(lines)),
        ]
        try await session.reset()
        return .object(report)
    }

    private static func facts(_ manifest: Manifest) -> [(key: String, value: JSON)] {
        [
            ("model", .string(manifest.name)), ("target", .string(manifest.target.rawValue)),
            ("precision", .string(manifest.precision.rawValue)),
            ("kv_write", manifest.kvWrite.map { .string($0.rawValue) } ?? .null),
            ("vocabulary_bits", .int(manifest.vocabularyBits)), ("parts", .int(manifest.parts)),
            ("fingerprint", .string(manifest.fingerprint)), ("capacity", .int(manifest.stream.capacity)),
            ("state_bytes", .int(manifest.stateBytes)), ("weight_bytes", .int(manifest.weightBytes)),
        ]
    }

    private func agreement(_ session: StreamSession, _ golden: GoldenStream?) async throws -> JSON {
        guard let golden else { return .null }
        let agreement = try await golden.agreement(with: session, tokens: goldenTokens)
        return .object([
            ("tokens", .int(agreement.tokens)), ("matched", .int(agreement.matched)),
            ("first_miss", agreement.firstMiss.map(JSON.int) ?? .null),
        ])
    }

    private func prefillSpeed(_ session: StreamSession, _ tokenizer: Tokenizer) async throws -> Double {
        let words = tokenizer.encode(Self.prompt)
        let ids = (0..<prefillTokens).map { words[$0 % words.count] }
        _ = try await session.feed(ids)  // the first run pays for what is made on demand
        let clock = ContinuousClock()
        let begin = clock.now
        _ = try await session.feed(ids)
        return Double(ids.count) / (clock.now - begin).inSeconds
    }

    /// Generates until the time is up; one line an interval.
    private func stream(
        _ session: StreamSession, _ tokenizer: Tokenizer, _ progress: (String) -> Void
    ) async throws -> ([JSON], TokenMeter) {
        var sampling = SamplingSpec()
        (sampling.temperature, sampling.repetitionPenalty, sampling.seed) = (0.8, 1.1, 1)
        let generation = try await session.generation(
            tokenizer.encode(Self.prompt), tokenizer: tokenizer, sampling: sampling, ignoresEnd: true)
        let clock = ContinuousClock()
        let begin = clock.now
        var (lines, meter) = ([JSON](), TokenMeter())
        var (from, tokens) = (begin, 0)
        while clock.now - begin < duration, !Task.isCancelled, try await generation.next() != nil {
            meter.count()
            tokens += 1
            let elapsed = clock.now - from
            if elapsed >= interval {
                lines.append(Self.line((clock.now - begin).inSeconds, Double(tokens) / elapsed.inSeconds))
                progress(lines.last?.text ?? "")
                (from, tokens) = (clock.now, 0)
            }
        }
        return (lines, meter)
    }

    private static func line(_ seconds: Double, _ speed: Double) -> JSON {
        .object([
            ("seconds", .double(seconds)), ("tokens_per_second", .double(speed)),
            ("footprint_bytes", MemoryGauge.footprintBytes().map(JSON.int) ?? .null),
            ("headroom_bytes", MemoryGauge.headroomBytes().map(JSON.int) ?? .null),
            ("thermal_state", .string(Thermal.current.rawValue)),
        ])
    }
}

/// How hot the device says it is; `unknown` where there is no saying.
public enum Thermal: String, Sendable {
    case nominal, fair, serious, critical, unknown

    public static var current: Thermal {
        #if canImport(Darwin)
            switch ProcessInfo.processInfo.thermalState {
            case .nominal: .nominal
            case .fair: .fair
            case .serious: .serious
            case .critical: .critical
            @unknown default: .unknown
            }
        #else
            .unknown
        #endif
    }
}

/// Which machine this is: "iPhone17,1" and its system.
public enum Machine {
    public static var facts: [(key: String, value: JSON)] {
        [
            ("machine", .string(model)), ("system", .string(ProcessInfo.processInfo.operatingSystemVersionString)),
            ("cores", .int(ProcessInfo.processInfo.activeProcessorCount)),
            ("memory_bytes", .int(Int(clamping: ProcessInfo.processInfo.physicalMemory))),
            ("date", .string(Date().ISO8601Format())),
        ]
    }

    private static var model: String {
        var info = utsname()
        uname(&info)
        return withUnsafeBytes(of: &info.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
}
