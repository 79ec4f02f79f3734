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
    private var isBroken = false  // the state may hold what is not a number
    private var epoch = 0  // which stream: a generation of an earlier one ends

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
        defer { isFeeding = false }
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
        defer { isFeeding = false }
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
        defer { isFeeding = false }
        let saved = SavedSession(
            fingerprint: manifest.fingerprint, position: position, sinks: ring.sinks,
            state: try await backend.state())
        try saved.write(to: file)
    }

    /// Go on from a session file; an error leaves the stream as it was.
    public func restore(from file: URL) async throws {
        try claim()
        defer { isFeeding = false }
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
        defer { isFeeding = false }
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
        defer { isFeeding = false }
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

    private var busy: EdgesinkError {
        EdgesinkError(.busy, "the stream is being fed", remedy: "stop or await the answer first")
    }

    private func claim() throws {
        guard !isFeeding else { throw busy }
        isFeeding = true
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
