import Foundation

/// A conversation without end: each turn is fed once, and nothing is written twice. The twin of `Chat` in
/// `runtime/chat.py`.
public actor Conversation {
    public nonisolated let session: StreamSession
    private let tokenizer: Tokenizer
    private let encoder: TurnEncoder
    private let turns: Turns
    private var system: String?
    private var answer: Generation?  // the last one; may have been left in the middle

    /// An error if the model is not for conversations. Whether it takes the system prompt is seen when it is asked.
    public init(session: StreamSession, tokenizer: Tokenizer, system: String? = nil) throws {
        let manifest = session.manifest
        guard let turns = manifest.turns else {
            throw EdgesinkError(
                .badBundle, "\(manifest.name) (\(manifest.noTurns ?? ""))", expected: "a chat model",
                remedy: "generate without a chat")
        }
        (self.session, self.tokenizer, self.turns, self.system) = (session, tokenizer, turns, system)
        encoder = TurnEncoder(tokenizer, controls: turns.ids)
    }

    /// Read the tokenizer of the bundle that the session runs.
    public init(session: StreamSession, bundle: URL, system: String? = nil) throws {
        try self.init(session: session, tokenizer: try Tokenizer(bundle: bundle), system: system)
    }

    /// Ask; the answer's tokens come as they are asked for. Stop asking, and the next message goes on from there.
    public func ask(
        _ message: String, sampling: SamplingSpec = .init(), maxNewTokens: Int? = nil
    ) async throws -> Generation {
        let script = try turns.script(system: system)
        try turns.check(message: message)
        let unfed = await answer?.unfed ?? []
        let isFirst = await session.position == 0 && unfed.isEmpty
        let pieces = isFirst ? script.first : script.later
        let ids = try encoder.encode(
            pieces.written(system: system, user: message, date: Date()), goesOn: !isFirst)
        let answer = try await session.generation(
            unfed + ids, tokenizer: tokenizer, sampling: sampling, maxNewTokens: maxNewTokens)
        self.answer = answer
        return answer
    }

    /// Start anew. `sinks` nil keeps the number of pinned tokens.
    public func reset(system: String?, sinks: Int? = nil) async throws {
        try await session.reset(sinks: sinks)
        (self.system, answer) = (system, nil)
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
        if let unfed = await answer?.unfed, !unfed.isEmpty { _ = try await session.feed(unfed) }
        answer = nil
        try await session.save(to: file)
    }

    /// Go on from a session file; an error leaves the conversation as it was.
    public func restore(from file: URL) async throws {
        try await session.restore(from: file)
        answer = nil
    }
}
