import EdgesinkCore
import Foundation

/// `check`: the device checklist. One JSON on stdout: golden tokens, speed, memory and heat over minutes.
enum Check {
    static let usage = "check BUNDLE [--minutes 10] [--golden FILE] [--units cpuAndGPU|cpuOnly|cpuAndNeuralEngine|all]"

    static func run(_ words: some Sequence<String>) async throws {
        let arguments = try Arguments(words, options: ["minutes", "golden", "units"])
        let bundle = URL(filePath: try arguments.word("bundle"))
        let tokenizer = try Tokenizer(bundle: bundle)
        let golden =
            try arguments.string("golden").map { try GoldenStream(file: URL(filePath: $0)) }
            ?? GoldenStream.ofBundle(bundle)
        let clock = ContinuousClock()
        let start = clock.now
        let units = arguments.string("units")
        let session = try await Opening.open(bundle, units: units)
        let loading = (clock.now - start).inSeconds
        var check = DeviceCheck()
        let minutes = try arguments.value("minutes", 10.0)
        check.duration = .seconds(60 * minutes)
        check.interval = min(check.interval, check.duration / 4)
        let facts: [(key: String, value: JSON)] =
            Machine.facts + [("load_seconds", .double(loading)), ("compute_units", units.map(JSON.string) ?? .null)]
        let report = try await check.run(session, tokenizer: tokenizer, golden: golden, facts: facts) { step in
            FileHandle.standardError.write(Data((step + "\n").utf8))
        }
        print(report.text)
    }
}
