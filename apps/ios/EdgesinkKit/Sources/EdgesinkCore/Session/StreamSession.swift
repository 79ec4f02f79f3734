import Foundation

/// One endless stream of tokens through a bundle: the twin of `runtime/session.py`.
///
/// Owns the position, the sinks of this stream and the checks on what comes in; the arithmetic is `Ring`'s, the graph
/// and its state are the backend's. Knows ids, not text.
public actor StreamSession {
    public nonisolated let manifest: Manifest
    private let backend: any ModelBackend
    private var ring: Ring
    public private(set) var position = 0  // tokens fed since the stream started, its sink token included
    private var furthest = 0  // tokens that may have been written, those that were taken back included
    private var isFeeding = false
    private var waiting: [CheckedContinuation<Void, Never>] = []  // for the end of a feed
    private var isBroken = false  // the state may hold what is not a number
    package private(set) var epoch = 0  // which stream: a generation of an earlier one ends

    /// `sinks`: pinned first tokens, 0 to the bundle's most; nil takes the bundle's default.
    public init(manifest: Manifest, backend: any ModelBackend, sinks: Int? = nil) throws {
        (self.manifest, self.backend) = (manifest, backend)
        ring = try manifest.stream.ring(sinks: sinks)
    }

    public var status: StreamStatus {
        StreamStatus(ring: ring, position: position, stateBytes: manifest.stateBytes)
    }

    /// Feed ids, any number from 1 up; float32 [V], the logits after the last.
    ///
    /// A cancelled task stops between chunks, the stream then standing at what was fed. Throws `badNumbers` where a logit
    /// is not finite: the stream can be reset or restored, but not go on.
    public func feed(_ ids: [Int]) async throws -> [Float] {
        try check(ids)
        try claim()
        defer { release() }
        let ids = position == 0 ? manifest.prefix + ids : ids
        var logits: [Float] = []
        var start = 0
        for size in ring.chunks(ids.count) {
            try Task.checkCancellation()
            furthest = max(furthest, position + size)
            logits = try await backend.feed(Array(ids[start..<(start + size)]), position: position, sinks: ring.sinks)
            start += size
            position += size
        }
        try check(logits)
        return logits
    }

    /// `feed` for a generation begun in `epoch`; cancelled if another stream has started since.
    func feed(_ ids: [Int], epoch: Int) async throws -> [Float] {
        guard epoch == self.epoch else { throw CancellationError() }
        return try await feed(ids)
    }

    /// Start a new stream; `sinks` nil keeps the number. What the buffers held before is never seen.
    public func reset(sinks: Int? = nil) async throws {
        try claim()
        defer { release() }
        let ring = try manifest.stream.ring(sinks: sinks ?? ring.sinks)
        if isBroken {  // rows that are masked count nothing times what they hold, which of NaN is NaN
            try await backend.load(try await backend.state().map(\.zeroed))
        }
        (self.ring, position, furthest, isBroken) = (ring, 0, 0, false)
        epoch += 1
    }

    /// Write the stream to a session file, whole or not at all.
    public func save(to file: URL) async throws {
        try claim()
        defer { release() }
        let saved = SavedSession(
            fingerprint: manifest.fingerprint, position: position, sinks: ring.sinks,
            state: try await backend.state())
        try saved.write(to: file)
    }

    /// Go on from a session file; an error leaves the stream as it was.
    public func restore(from file: URL) async throws {
        try claim()
        defer { release() }
        let saved = try SavedSession(
            reading: file, of: manifest, like: try await backend.state())
        let ring = try manifest.stream.ring(sinks: saved.sinks)
        try await backend.load(saved.state)
        (self.ring, position, isBroken) = (ring, saved.position, false)
        furthest = position + ring.chunk  // that much of it may have been taken back before it was saved
        epoch += 1
    }

    /// Feed `ids`, then make tokens one by one, each when it is asked for, until an end id, a stop string or
    /// `maxNewTokens` (nil: endlessly). `ignoresEnd`: end ids are tokens like any other, so that nothing ends it.
    public func generation(
        _ ids: [Int], tokenizer: Tokenizer, sampling: SamplingSpec = .init(), maxNewTokens: Int? = nil,
        stop: [String] = [], ignoresEnd: Bool = false
    ) throws -> Generation {
        try check(ids)
        if let maxNewTokens, maxNewTokens < 0 {
            throw EdgesinkError(.badOption, "max_new_tokens = \(maxNewTokens)", expected: "0 or more")
        }
        return try Generation(
            session: self, epoch: epoch, ids: ids, endIds: ignoresEnd ? [] : manifest.eosIds,
            rows: tokenizer.rows, sampler: Sampler(sampling),
            text: StopFilter(Detokenizer(tokenizer), stop: stop), maxNewTokens: maxNewTokens)
    }

    /// `generation` as a stream of tokens.
    public func generate(
        _ ids: [Int], tokenizer: Tokenizer, sampling: SamplingSpec = .init(), maxNewTokens: Int? = nil,
        stop: [String] = [], ignoresEnd: Bool = false
    ) throws -> AsyncThrowingStream<Token, any Error> {
        try generation(
            ids, tokenizer: tokenizer, sampling: sampling, maxNewTokens: maxNewTokens, stop: stop,
            ignoresEnd: ignoresEnd
        ).tokens
    }

    // MARK: - Going back, looking in

    /// Tokens that `rewind` can take back now, 0 … chunk: the last ones fed, as long as no key is missed for it.
    public var rewindable: Int { max(0, position - max(manifest.prefix.count, furthest - ring.chunk)) }

    /// Take back the last `tokens` tokens exactly as if they had never been fed. There are no logits then: feed the next
    /// token. After `restore`, what was fed since can be taken back. Throws `badOption` for more than `rewindable`.
    public func rewind(_ tokens: Int) throws {
        try claim()
        defer { release() }
        guard (0...rewindable).contains(tokens) else {
            throw EdgesinkError(
                .badOption, "rewinding by \(tokens) of \(position) tokens", expected: "0 to \(rewindable)",
                remedy: "save the stream before tokens that may be taken back, or reset it")
        }
        position -= tokens
    }

    /// What a layer holds as values of some tokens of the stream: float32 [tokens, K D].
    ///
    /// Throws `badOption` for no such layer, or tokens that its ring does not hold any more, or not yet.
    public func values(layer: Int, of tokens: Range<Int>) async throws -> [Float] {
        try claim()
        defer { release() }
        let place = try manifest.values(ofLayer: layer)
        let ring = try manifest.rings(sinks: ring.sinks)[place.state.view]
        let oldest = max(0, max(furthest, position) - ring.slots)
        let isHeld = tokens.upperBound <= ring.sinks || max(tokens.lowerBound, ring.sinks) >= oldest
        guard 0 <= tokens.lowerBound, !tokens.isEmpty, tokens.upperBound <= position, isHeld else {
            throw EdgesinkError(
                .badOption, "the values of tokens \(tokens.lowerBound) to \(tokens.upperBound - 1)",
                expected: "tokens \(oldest) to \(position - 1)")
        }
        guard let tensor = try await backend.state(place.state.name) else {
            throw EdgesinkError(.badBundle, "no state \(place.state.name)", expected: "the manifest's")
        }
        return tensor.floats(block: place.block, rows: tokens.map(ring.slot))
    }

    // MARK: - Pinned rows

    /// Put other first tokens in the place of the pinned ones, exactly as many as there are sinks; nothing else changes.
    ///
    /// Their keys and values are bit for bit those of a stream that began with `ids`. For a while the state is held twice,
    /// and one of its buffers a third time. A model's own sink token stays the first of them. Returns what stood there, for
    /// `putPinnedRows`.
    ///
    /// Throws `badOption` for another number of ids, or a stream that has not yet so many tokens; `badNumbers` as `feed`.
    /// An error or a cancelled task leaves the stream as it was.
    public func repin(_ ids: [Int]) async throws -> PinnedRows {
        try check(ids)
        try claim()
        defer { release() }
        try manifest.checkPinned(ring.sinks, at: position)
        try manifest.checkPinned(ids, sinks: ring.sinks)
        let before = try await PinnedRows(of: backend, manifest, sinks: ring.sinks)
        var live = try await backend.state()
        do {
            try await firstRows(ids).put(into: &live, manifest, sinks: ring.sinks)
        } catch {
            try await load(live)
            throw error
        }
        try await load(live)
        return before
    }

    /// A copy of the keys and values of the pinned tokens; `badOption` before they have all been fed.
    public func pinnedRows() async throws -> PinnedRows {
        try claim()
        defer { release() }
        try manifest.checkPinned(ring.sinks, at: position)
        return try await PinnedRows(of: backend, manifest, sinks: ring.sinks)
    }

    /// Put back what `repin` or `pinnedRows` gave; `badOption` if it is of another bundle or number of sinks.
    ///
    /// Waits for the end of a feed, as no other call does: a reader that was cancelled may still be computing.
    public func putPinnedRows(_ rows: PinnedRows) async throws {
        await claimWhenFree()
        defer { release() }
        try manifest.checkPinned(ring.sinks, at: position)
        var state = try await backend.state()
        try rows.put(into: &state, manifest, sinks: ring.sinks)
        try await load(state)
    }

    /// The pinned rows of a stream that begins with `ids`; the backend's state is that stream's afterwards.
    private func firstRows(_ ids: [Int]) async throws -> PinnedRows {
        var logits: [Float] = []
        var start = 0
        for size in ring.chunks(ids.count) {
            try Task.checkCancellation()
            logits = try await backend.feed(Array(ids[start..<(start + size)]), position: start, sinks: ring.sinks)
            start += size
        }
        guard logits.isFinite else {
            throw EdgesinkError(
                .badNumbers, "the logits after the tokens to be pinned are not finite", remedy: EdgesinkError.broken)
        }
        return try await PinnedRows(of: backend, manifest, sinks: ring.sinks)
    }

    /// Overwrite the state; what fails halfway cannot be gone on from.
    private func load(_ state: [StateTensor]) async throws {
        let wasBroken = isBroken
        isBroken = true
        try await backend.load(state)
        isBroken = wasBroken
    }

    private var busy: EdgesinkError {
        EdgesinkError(.busy, "the stream is being fed", remedy: "stop or await the answer first")
    }

    private func claim() throws {
        guard !isFeeding else { throw busy }
        isFeeding = true
    }

    private func claimWhenFree() async {
        while isFeeding { await withCheckedContinuation { waiting.append($0) } }
        isFeeding = true
    }

    private func release() {
        isFeeding = false
        if !waiting.isEmpty { waiting.removeFirst().resume() }
    }

    private func check(_ logits: [Float]) throws {
        isBroken = isBroken || !logits.isFinite
        guard isBroken else { return }
        throw EdgesinkError(
            .badNumbers, "the logits at position \(position - 1) of the stream are not finite",
            remedy: EdgesinkError.broken)
    }

    private func check(_ ids: [Int]) throws {
        guard !ids.isEmpty else { throw EdgesinkError(.badOption, "no ids", expected: "one id or more") }
        let vocab = manifest.vocab
        if let bad = ids.first(where: { !(0..<vocab).contains($0) }) {
            throw EdgesinkError(
                .badOption, "token id \(bad)", expected: "0 to \(vocab - 1)", remedy: "use the bundle's own tokenizer")
        }
    }
}

/// Where a stream stands: what a screen shows.
public struct StreamStatus: Equatable, Sendable {
    public let ring: Ring
    public let position: Int  // tokens fed
    public let stateBytes: Int  // the same from the first token to the last

    public var sinksFilled: Int { min(position, ring.sinks) }
    public var windowFilled: Int { min(max(0, position - ring.sinks), ring.window) }
    public var forgotten: Int { ring.evicted(position) }
}

extension [Float] {
    /// No infinity and no NaN; without a branch, so that many are looked at at once.
    var isFinite: Bool {
        withUnsafeBufferPointer { values in
            values.reduce(UInt32(0)) { $0 | (($1.bitPattern & 0x7F80_0000) &+ 0x0080_0000) } & 0x8000_0000 == 0
        }
    }
}
