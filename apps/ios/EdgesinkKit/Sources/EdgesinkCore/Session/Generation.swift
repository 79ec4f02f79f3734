/// One generated token.
public struct Token: Equatable, Sendable {
    public let id: Int
    public let text: String  // characters that became certain with it; may be empty, or hold those of tokens before
}

/// One answer being made: the decode loop, a step a call. The twin of `runtime/generate.py`.
///
/// Owns when to stop and how text leaves. A token is fed when the next is asked for, so the last one is not in the stream:
/// `unfed` has it, unless it is an end id, which the next turn writes itself.
public actor Generation {
    private let session: StreamSession
    private let epoch: Int
    private let endIds: Set<Int>
    private let maxNewTokens: Int?
    private let rows: TokenRows
    private var sampler: Sampler
    private var text: StopFilter
    private var recent: [Int] = []  // of the answer: words of the prompt may be said
    private var toFeed: [Int]  // the prompt, then the token last made
    private var count = 0  // of tokens made
    private var isOver = false
    private var pause: (@Sendable (_ isOver: Bool) async -> Void)?

    /// The text of the answer so far; kept only for whom `whenPaused` names.
    private(set) var said = ""

    init(
        session: StreamSession, epoch: Int, ids: [Int], endIds: [Int], rows: TokenRows, sampler: Sampler,
        text: StopFilter, maxNewTokens: Int?
    ) {
        (self.session, self.epoch, self.maxNewTokens) = (session, epoch, maxNewTokens)
        self.endIds = Set(endIds)
        (self.rows, self.sampler, self.text) = (rows, sampler, text)
        toFeed = ids
    }

    /// What is not in the stream yet and belongs there: what the next turn begins with.
    public var unfed: [Int] { toFeed }

    /// Keep the text from now on, and call `body` when the answer is over, or when an error interrupts it, which may be
    /// gone on behind; not if it is left in the middle.
    func whenPaused(_ body: @escaping @Sendable (_ isOver: Bool) async -> Void) { pause = body }

    /// The next token; nil once the answer is over. An end id is the last token of its answer, and has no text.
    public func next() async throws -> Token? {
        if isOver { return nil }
        do {
            return try await make()
        } catch {
            await pause?(false)
            throw error
        }
    }

    private func make() async throws -> Token? {
        try Task.checkCancellation()
        let logits = try await feedAll()
        guard maxNewTokens != 0 else {
            isOver = true
            await pause?(true)
            return nil
        }
        let id = try sampler.next(rows.rows(of: logits), recent: recent)
        count += 1
        remember(id)
        let isEnd = endIds.contains(id)
        toFeed = isEnd ? [] : [id]
        let isLast = isEnd || count == maxNewTokens
        let certain = isEnd ? "" : text.push(id)
        isOver = isLast || text.stopped
        let token = Token(id: id, text: isLast ? certain + text.finish() : certain)
        if let pause {
            said += token.text
            if isOver { await pause(true) }
        }
        return token
    }

    /// The tokens as a stream that makes each when it is asked for; cancelling the reader stops it.
    public nonisolated var tokens: AsyncThrowingStream<Token, any Error> {
        AsyncThrowingStream { try await self.next() }
    }

    /// Feeds what is to be fed; cancelled in the middle of a prompt, `toFeed` keeps the rest.
    private func feedAll() async throws -> [Float] {
        let position = await session.position
        let start = position == 0 ? session.manifest.prefix.count : position  // which a new stream feeds first
        do {
            let logits = try await session.feed(toFeed, epoch: epoch)
            toFeed = []
            return logits
        } catch {
            toFeed.removeFirst(min(toFeed.count, max(0, await session.position - start)))
            throw error
        }
    }

    private func remember(_ id: Int) {
        recent.append(id)
        if recent.count > max(1, sampler.spec.repetitionWindow) { recent.removeFirst() }
    }
}
