import Foundation

/// A conversation without end: each turn is fed once, and nothing is written twice. The twin of `Chat` in
/// `runtime/chat.py`.
public actor Conversation {
    public nonisolated let session: StreamSession
    public nonisolated let tokenizer: Tokenizer
    private let encoder: TurnEncoder
    private let turns: Turns
    private var system: String?
    private var answer: Generation?  // the last one; may have been left in the middle
    private var memory: (any ConversationMemory)?
    private var open: OpenExchange?
    private var isAsked = false

    /// An exchange that is going on.
    private struct OpenExchange {
        let message: String
        let unfed: UnfedTurn
        let answer: Generation
        let memory: any ConversationMemory
    }

    /// An error if the model is not for conversations. Whether it takes the system prompt is seen when it is asked.
    public init(
        session: StreamSession, tokenizer: Tokenizer, system: String? = nil, memory: (any ConversationMemory)? = nil
    ) throws {
        let manifest = session.manifest
        guard let turns = manifest.turns else {
            throw EdgesinkError(
                .badBundle, "\(manifest.name) (\(manifest.noTurns ?? ""))", expected: "a chat model",
                remedy: "generate without a chat")
        }
        (self.session, self.tokenizer, self.turns, self.system) = (session, tokenizer, turns, system)
        self.memory = memory
        encoder = TurnEncoder(tokenizer, controls: turns.ids)
    }

    /// Read the tokenizer of the bundle that the session runs.
    public init(
        session: StreamSession, bundle: URL, system: String? = nil, memory: (any ConversationMemory)? = nil
    ) throws {
        try self.init(session: session, tokenizer: try Tokenizer(bundle: bundle), system: system, memory: memory)
    }

    /// Ask; the answer's tokens come as they are asked for. Stop asking, and the next message goes on from there.
    public func ask(
        _ message: String, sampling: SamplingSpec = .init(), maxNewTokens: Int? = nil
    ) async throws -> Generation {
        try checkFree()
        isAsked = true
        defer { isAsked = false }
        await settle()
        try turns.check(message: message)
        guard let memory else { return try await begin(message, sampling, maxNewTokens).answer }
        do {
            let written = try await memory.around(message, in: self)
            let (unfed, answer) = try await begin(written, sampling, maxNewTokens)
            open = OpenExchange(message: message, unfed: unfed, answer: answer, memory: memory)
            await answer.whenPaused { [weak self, weak answer] isOver in await self?.paused(answer, isOver) }
            return answer
        } catch {
            await memory.putBack()
            throw error
        }
    }

    /// Begin to answer a message as it is to be fed.
    private func begin(
        _ written: String, _ sampling: SamplingSpec, _ maxNewTokens: Int?
    ) async throws -> (unfed: UnfedTurn, answer: Generation) {
        let unfed = try await nextTurn(written)
        let answer = try await session.generation(
            unfed.answer + unfed.turn, tokenizer: tokenizer, sampling: sampling, maxNewTokens: maxNewTokens)
        self.answer = answer
        return (unfed, answer)
    }

    /// An answer is over, or was interrupted; it may be one that another message has taken the place of.
    private func paused(_ answer: Generation?, _ isOver: Bool) async {
        guard let open, open.answer === answer else { return }
        if isOver { await settle() } else { await open.memory.putBack() }
    }

    private func checkFree() throws {
        guard !isAsked else {
            throw EdgesinkError(.busy, "another message is being read", remedy: "await it first")
        }
    }

    /// What would be fed next to get an answer to a message, and where it would stand.
    ///
    /// Throws `badOption` for an empty message, or one that the model's turns cannot hold.
    public func nextTurn(_ message: String) async throws -> UnfedTurn {
        let script = try turns.script(system: system)
        try turns.check(message: message)
        let rest = await answer?.unfed ?? []
        let position = await session.position
        let isFirst = position == 0 && rest.isEmpty
        let pieces = isFirst ? script.first : script.later
        let start = position == 0 ? session.manifest.prefix.count : position  // which a new stream feeds first
        return UnfedTurn(
            start: start, answer: rest, turn: try encode(pieces, message, goesOn: !isFirst),
            before: try encode(pieces.beforeMessage, "", goesOn: !isFirst).count,
            closing: try encode(pieces.behindMessage, "", goesOn: true).count)
    }

    /// Ids of text that stands behind other text; a control token that is spelled in it is ordinary text.
    ///
    /// Throws `badOption` where the tokenizer makes a control token of it, however it is written.
    public nonisolated func ids(ofText text: String) throws -> [Int] {
        try encoder.encode([.text(text)], goesOn: true)
    }

    private func encode(_ pieces: [Piece], _ message: String, goesOn: Bool) throws -> [Int] {
        try encoder.encode(pieces.written(system: system, user: message, date: Date()), goesOn: goesOn)
    }

    /// What remembers beyond the window from the next message on; nil for nothing.
    public func remember(with memory: (any ConversationMemory)?) async {
        await settle()
        self.memory = memory
        await memory?.streamChanged()
    }

    /// Nothing more is made of the exchange that was going on, so it may be remembered. Of an answer that was stopped the
    /// next message, `save`, `reset` and `restore` do this as well.
    public func settle() async {
        await (open?.memory ?? memory)?.putBack()
        guard let open else { return }
        self.open = nil
        let (unfed, position) = (open.unfed, await session.position)
        guard position > unfed.turnStart else { return }  // nothing of it was read
        let said = position >= unfed.end ? await open.answer.said : ""
        await open.memory.remember(Exchange(message: open.message, unfed: unfed, answer: said), of: self)
    }

    /// Start anew. `sinks` nil keeps the number of pinned tokens.
    public func reset(system: String?, sinks: Int? = nil) async throws {
        try checkFree()
        await settle()
        try await session.reset(sinks: sinks)
        (self.system, answer) = (system, nil)
        await memory?.streamChanged()
    }

    /// How many tokens a stream must pin to keep the whole system prompt forever.
    public func tokens(ofSystem system: String?) throws -> Int {
        let script = try turns.script(system: system)
        if script.repeatsSystem {
            throw EdgesinkError(
                .badOption, "a pinned system prompt", expected: "none: this model's turns repeat it in every message")
        }
        let before = try encoder.encode(script.first.beforeMessage.written(system: system, user: "", date: Date()))
        return session.manifest.prefix.count + before.count
    }

    /// Write the conversation to a session file: what the model still remembers, not a transcript.
    public func save(to file: URL) async throws {
        try checkFree()
        await settle()
        if let unfed = await answer?.unfed, !unfed.isEmpty { _ = try await session.feed(unfed) }
        answer = nil
        try await session.save(to: file)
    }

    /// Go on from a session file; an error leaves the conversation as it was.
    public func restore(from file: URL) async throws {
        try checkFree()
        await settle()
        try await session.restore(from: file)
        answer = nil
        await memory?.streamChanged()
    }
}
