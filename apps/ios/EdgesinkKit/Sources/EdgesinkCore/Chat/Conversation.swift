import Foundation

/// A conversation without end: each turn is fed once, and nothing is rendered twice. The twin of `Chat` in
/// `runtime/chat.py`.
public actor Conversation {
    public nonisolated let session: StreamSession
    private let tokenizer: Tokenizer
    private let template: ChatTemplate
    private var system: String?
    private var answer: Generation?  // the last one; may have been left in the middle

    public init(session: StreamSession, tokenizer: Tokenizer, template: ChatTemplate, system: String? = nil) {
        (self.session, self.tokenizer, self.template, self.system) = (session, tokenizer, template, system)
    }

    /// Read tokenizer and template of the bundle that the session runs.
    public init(session: StreamSession, bundle: URL, system: String? = nil) throws {
        let tokenizer = try Tokenizer(bundle: bundle)
        let template = try ChatTemplate(bundle: bundle, manifest: session.manifest, tokenizer: tokenizer)
        self.init(session: session, tokenizer: tokenizer, template: template, system: system)
    }

    /// Ask; the answer's tokens come as they are asked for. Stop asking, and the next message goes on from there.
    public func ask(
        _ message: String, sampling: SamplingSpec = .init(), maxNewTokens: Int? = nil
    ) async throws -> Generation {
        let unfed = await answer?.unfed ?? []
        let isFirst = await session.position == 0 && unfed.isEmpty
        let turn = try isFirst ? template.firstTurn(message, system: system) : template.nextTurn(message)
        let answer = try await session.generation(
            unfed + tokenizer.encode(turn), tokenizer: tokenizer, sampling: sampling, maxNewTokens: maxNewTokens)
        self.answer = answer
        return answer
    }

    /// Start anew. `sinks` nil keeps the number of pinned tokens.
    public func reset(system: String?, sinks: Int? = nil) async throws {
        try await session.reset(sinks: sinks)
        (self.system, answer) = (system, nil)
    }

    /// How many tokens a stream must pin to keep the whole system prompt forever.
    public func tokens(ofSystem system: String) throws -> Int {
        session.manifest.prefix.count + tokenizer.encode(try template.systemTurn(system)).count
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
