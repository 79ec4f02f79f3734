/// One generated token.
public struct Token: Equatable, Sendable {
    public let id: Int
    public let text: String  // characters that became certain with it; may be empty, or hold those of tokens before
}

/// One answer being made: the decode loop, a step a call. The twin of `runtime/generate.py`.
///
/// Owns when to stop and how text leaves. A token is fed when the next is asked for, so a caller that stops early leaves
/// the stream at the last token that it saw, minus that one: `unfed` tells.
public actor Generation {
    private let session: StreamSession
    private let epoch: Int
    private let endIds: Set<Int>
    private let maxNewTokens: Int?
    private var sampler: Sampler
    private var text: StopFilter
    private var recent: [Int]
    private var toFeed: [Int]  // the prompt, then the token last made
    private var made = 0
    private var lastId = -1
    private var isOver = false

    init(
        session: StreamSession, epoch: Int, ids: [Int], endIds: [Int], sampler: Sampler, text: StopFilter,
        maxNewTokens: Int?
    ) {
        (self.session, self.epoch, self.maxNewTokens) = (session, epoch, maxNewTokens)
        self.endIds = Set(endIds)
        (self.sampler, self.text) = (sampler, text)
        recent = ids.suffix(max(1, sampler.spec.repetitionWindow))
        toFeed = ids
    }

    /// What was made or asked to be fed and has not been: what the next turn begins with.
    public var unfed: [Int] { toFeed }

    /// The next token; nil once the answer is over.
    public func next() async throws -> Token? {
        if isOver { return nil }
        try Task.checkCancellation()
        let logits = try await session.feed(toFeed, epoch: epoch)
        toFeed = []
        guard made != maxNewTokens else { return rest() }
        let id = sampler.next(logits, recent: recent)
        guard !endIds.contains(id) else { return rest() }
        lastId = id
        made += 1
        remember(id)
        toFeed = [id]
        let certain = text.push(id)
        isOver = text.stopped
        return Token(id: id, text: certain)
    }

    /// The tokens as a stream that makes each when it is asked for; cancelling the reader stops it.
    public nonisolated var tokens: AsyncThrowingStream<Token, any Error> {
        AsyncThrowingStream { try await self.next() }
    }

    /// What text was held back, with the id of the last token.
    private func rest() -> Token? {
        isOver = true
        let left = text.finish()
        return left.isEmpty ? nil : Token(id: lastId, text: left)
    }

    private func remember(_ id: Int) {
        recent.append(id)
        if recent.count > max(1, sampler.spec.repetitionWindow) { recent.removeFirst() }
    }
}
