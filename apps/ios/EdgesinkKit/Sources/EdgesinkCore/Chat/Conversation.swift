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
    private var open: (message: String, unfed: UnfedTurn)?  // an exchange that is going on
    private var isAsked = false

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
        guard !isAsked else {
            throw EdgesinkError(.busy, "another message is being read", remedy: "await it first")
        }
        isAsked = true
        defer { isAsked = false }
        await settle()
        try turns.check(message: message)
        let written = try await memory?.around(message, in: self) ?? message
        let unfed = try await nextTurn(written)
        let answer = try await session.generation(
            unfed.answer + unfed.turn, tokenizer: tokenizer, sampling: sampling, maxNewTokens: maxNewTokens)
        self.answer = answer
        if memory != nil {
            open = (message, unfed)
            await answer.whenOver { [weak self] in await self?.settle() }
        }
        return answer
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
    /// next message, `save` and `reset` do this as well.
    public func settle() async {
        guard let (message, unfed) = open else { return }
        open = nil
        let position = await session.position
        guard position > unfed.turnStart else { return }  // nothing of it was read
        let said = position >= unfed.end ? await answer?.said ?? "" : ""
        await memory?.remember(Exchange(message: message, unfed: unfed, answer: said), of: self)
    }

    /// Start anew. `sinks` nil keeps the number of pinned tokens.
    public func reset(system: String?, sinks: Int? = nil) async throws {
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
        await settle()
        if let unfed = await answer?.unfed, !unfed.isEmpty { _ = try await session.feed(unfed) }
        answer = nil
        try await session.save(to: file)
    }

    /// Go on from a session file; an error leaves the conversation as it was.
    public func restore(from file: URL) async throws {
        await settle()
        try await session.restore(from: file)
        answer = nil
        await memory?.streamChanged()
    }
}
