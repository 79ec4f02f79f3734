import EdgesinkCore
import EdgesinkCoreML
import EdgesinkMemory
import Foundation
import Observation

/// What the app does, on the main actor; the model itself runs on the session's own actor.
@MainActor
@Observable
final class ChatModel {
    private static let longestAnswer = 512  // tokens
    private static let gaugeInterval = Duration.milliseconds(500)
    private static let coolingPause = Duration.milliseconds(80)  // after each token while the device is hot
    private static let standardSystem = "You are a helpful assistant."

    enum Phase: Equatable { case empty, loading, ready, answering, checking }

    struct Line: Identifiable {
        let id = UUID()
        let isUser: Bool
        let text: String
        var recalled: [Passage] = []  // that came back for it from beyond the window
    }

    private(set) var phase = Phase.empty
    private(set) var lines: [Line] = []
    private(set) var gauges = Gauges()
    private(set) var bundles: [URL] = []
    private(set) var progress = ""  // of a device check
    private(set) var report: URL?  // the last device check, to be shared
    var notice: String?  // an error or a warning, shown until dismissed
    let answer = LiveAnswer()

    var system = ChatModel.standardSystem
    var sampling = SamplingSpec(SamplingDefaults.chat)  // of the model that is open, until a slider is moved
    var units = ComputeChoice.standard
    var sinks: Int?  // nil: the bundle's default
    var pinsSystem = false  // the whole system prompt as sinks
    private(set) var remembers = true  // beyond the window
    private(set) var passages = 0  // in the memory

    private var open: (bundle: URL, conversation: Conversation, loadSeconds: Double)?
    private var memory: Memory?  // of the bundle that is open
    private var work: Task<Void, Never>?

    var isBusy: Bool { phase != .ready && phase != .empty }
    var modelName: String { open?.conversation.session.manifest.name ?? "No model" }
    var mostSinks: Int { open?.conversation.session.manifest.stream.maxSinks ?? 0 }

    // MARK: - Bundles

    /// Find what was put into the app's folder, open the first, and keep the gauges moving.
    func start() async {
        bundles = BundleFolder.list()
        if let first = bundles.first { load(first) }
        while !Task.isCancelled {
            await readGauges()
            try? await Task.sleep(for: Self.gaugeInterval)
        }
    }

    /// Copy a bundle that was chosen in Files, then open it.
    func add(_ result: Result<URL, any Error>) {
        do {
            let bundle = try BundleFolder.add(result.get())
            bundles = BundleFolder.list()
            load(bundle)
        } catch { notice = "\(error)" }
    }

    func load(_ bundle: URL) {
        run(.loading) { [units, sinks, prompt] in
            self.open = nil
            let (clock, begin) = (ContinuousClock(), ContinuousClock.now)
            let session = try await Task.detached {
                try await StreamSession.coreML(bundle: bundle, units: units, sinks: sinks)
            }.value
            let conversation = try Conversation(session: session, bundle: bundle, system: prompt)
            self.open = (bundle, conversation, (clock.now - begin).inSeconds)
            await self.openMemory(bundle, conversation)
            self.sampling = SamplingSpec(session.manifest.sampling ?? .chat)
            try await self.startAnew()
        }
    }

    // MARK: - Talk

    func ask(_ text: String) {
        lines.append(Line(isUser: true, text: text))
        run(.answering) { [sampling] in
            guard let conversation = self.open?.conversation else { return }
            defer { self.keepAnswer() }
            let generation = try await conversation.ask(text, sampling: sampling, maxNewTokens: Self.longestAnswer)
            await self.showRecalled(text)
            self.gauges.meter = TokenMeter()
            while let token = try await generation.next() {
                self.answer.text += token.text
                self.gauges.meter.count()
                try await self.mindTheHeat()
            }
        }
    }

    // MARK: - Memory

    /// A bundle whose memory cannot be used is talked with all the same.
    private func openMemory(_ bundle: URL, _ conversation: Conversation) async {
        await memory?.close()
        memory = nil
        do {
            let memory = try BundleFolder.memory(of: bundle, calibration(of: bundle, conversation.session.manifest))
            self.memory = memory
            let trouble = await memory.trouble  // of a file that was damaged
            if !trouble.isEmpty { notice = trouble }
        } catch { notice = "\(error)" }
        await conversation.remember(with: remembers ? memory : nil)
        await countPassages()
    }

    /// How meanings are compared; nil, so that words are searched, where the bundle does not say or nobody can use it.
    private func calibration(of bundle: URL, _ manifest: Manifest) -> Calibration? {
        do { return try Calibration.ofBundle(bundle, manifest) } catch {
            notice = "Only words are searched: \(error)"
            return nil
        }
    }

    /// Remember what is said from now on, and bring back what was; or leave the memory as it is.
    func setRemembers(_ on: Bool) {
        run(.loading) {
            self.remembers = on
            await self.open?.conversation.remember(with: on ? self.memory : nil)
        }
    }

    /// Nothing that was said is left in the file.
    func forgetEverything() {
        run(.loading) {
            await self.open?.conversation.settle()
            try await self.memory?.forgetAll()
            await self.countPassages()
        }
    }

    /// What came back for the message, beside it.
    private func showRecalled(_ message: String) async {
        guard remembers, let memory, let place = lines.indices.last else { return }
        if await memory.isOff { notice = await memory.trouble }
        if let recall = await memory.recalled, recall.message == message {
            lines[place].recalled = recall.wishes + recall.found.map(\.passage)
        }
    }

    private func countPassages() async { passages = (try? await memory?.count) ?? 0 }

    // MARK: - Stopping

    /// Stop the answer or the device check; what was said stays said.
    func stop() { work?.cancel() }

    /// A new conversation with the settings as they are.
    func reset() {
        run(.loading) { try await self.startAnew() }
    }

    private var prompt: String? { system.isEmpty ? nil : system }

    private func startAnew() async throws {
        guard let conversation = open?.conversation else { return }
        let standard = sinks ?? conversation.session.manifest.stream.sinks
        let pinned = pinsSystem ? try await conversation.tokens(ofSystem: prompt) : standard
        try await conversation.reset(system: prompt, sinks: pinned)
        lines = []
    }

    private func keepAnswer() {
        if !answer.text.isEmpty { lines.append(Line(isUser: false, text: answer.text)) }
        answer.text = ""
    }

    // MARK: - The device

    /// Everything that only a device can tell, into a file to share.
    func checkDevice() {
        run(.checking) { [units] in
            guard let open = self.open else { return }
            let facts: [(key: String, value: JSON)] =
                Machine.facts + [
                    ("load_seconds", .double(open.loadSeconds)), ("compute_units", .string(units.rawValue)),
                ]
            await open.conversation.settle()
            let report = try await DeviceCheck().run(
                open.conversation.session, tokenizer: try Tokenizer(bundle: open.bundle),
                golden: try GoldenStream.ofBundle(open.bundle), facts: facts
            ) { step in Task { @MainActor in self.progress = step } }
            let file = BundleFolder.documents.appending(path: "edgesink-device-check.json")
            try Data((report.text + "\n").utf8).write(to: file, options: .atomic)
            self.report = file
            try await self.startAnew()
        }
    }

    /// The system wants memory back: what we hold is constant, so the answer ends and the reader is told.
    func memoryIsShort() {
        guard isBusy else { return }
        stop()
        notice = "The system is short of memory: the answer was stopped."
    }

    /// No GPU in the background: stop, and leave the stream on disk in case the system ends us.
    func goesToBackground() async {
        stop()
        await work?.value
        guard let open, await open.conversation.session.position > 0 else { return }
        try? await open.conversation.save(to: BundleFolder.session(of: open.bundle))
    }

    /// Go on from what was saved when the app was last left.
    func resume() {
        run(.loading) {
            guard let open = self.open else { return }
            try await open.conversation.restore(from: BundleFolder.session(of: open.bundle))
            self.lines = []
        }
    }

    private func mindTheHeat() async throws {
        switch Thermal.current {
        case .serious: try await Task.sleep(for: Self.coolingPause)
        case .critical:
            notice = "The device is too hot: the answer was stopped."
            throw CancellationError()
        default: break
        }
    }

    private func readGauges() async {
        gauges.footprintBytes = MemoryGauge.footprintBytes()
        gauges.headroomBytes = MemoryGauge.headroomBytes()
        gauges.thermal = Thermal.current
        gauges.status = await open?.conversation.session.status
    }

    /// One piece of work at a time; errors become a notice, a cancelled one is silent.
    private func run(_ phase: Phase, _ body: @escaping @MainActor () async throws -> Void) {
        guard !isBusy else { return }
        self.phase = phase
        work = Task {
            do { try await body() } catch is CancellationError {} catch { notice = "\(error)" }
            progress = ""
            await countPassages()
            self.phase = open == nil ? .empty : .ready
        }
    }
}

/// The answer as it comes: an object of its own, so that only its bubble is drawn anew.
@MainActor
@Observable
final class LiveAnswer {
    var text = ""
}

/// What the strip above the conversation shows.
struct Gauges {
    var status: StreamStatus?
    var meter = TokenMeter()
    var footprintBytes: Int?
    var headroomBytes: Int?
    var thermal = Thermal.unknown
}
