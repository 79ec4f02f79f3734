import EdgesinkCore

/// A message as the model sees it: fed, looked at, and taken back, exactly as if it had never been fed. The twin of
/// `edgesink/memory/asking.py`.
///
/// Owns which of its tokens are fed: the last ones, at most a chunk, for no more can be taken back; and that the stream is
/// as it was afterwards, whatever happens.
enum Asking {
    /// What `look` makes of a message as it was fed; while it looks the stream stands before the message, for the judge of
    /// passages. There is no judge where `judges` is false, or the message does not allow it.
    static func asking<Result>(
        _ unfed: UnfedTurn, _ calibration: Calibration, _ conversation: Conversation, judges: Bool,
        isolation: isolated (any Actor)? = #isolation, _ look: (AsFed, Judge?) async throws -> Result
    ) async throws -> Result {
        let session = conversation.session
        let ids = Array(unfed.turn.dropLast(unfed.closing).suffix(session.manifest.stream.chunk))
        let message = Array(ids.suffix(unfed.message.count))
        let start = await session.position
        let result: Result
        do {
            _ = try await session.feed(ids)
            let end = await session.position
            let fed = AsFed(
                words: Spoken(message, conversation.tokenizer).words(),
                rows: try await session.rows(layer: calibration.numbers.layer, of: (end - message.count)..<end),
                gateRows: try await session.rows(layer: calibration.numbers.gateLayer, of: (end - message.count)..<end))
            try await session.rewind(message.count)
            let head = ids.count - message.count
            let judge = judges ? Judge(conversation, head: head, isStart: start == 0, message: message) : nil
            result = try await look(fed, judge)
        } catch {
            try await takeBack(to: start, session)
            throw error
        }
        try await takeBack(to: start, session)
        return result
    }

    private static func takeBack(to start: Int, _ session: StreamSession) async throws {
        if start == 0 { return try await session.reset() }
        try await session.rewind(await session.position - start)
    }
}

extension StreamSession {
    /// Values of some tokens of the stream, [tokens, K D].
    func rows(layer: Int, of tokens: Range<Int>) async throws -> Rows {
        let numbers = try await values(layer: layer, of: tokens)
        return Rows(width: numbers.count / tokens.count, numbers)
    }
}
