import EdgesinkCore

/// A message as the model sees it: fed, its value rows read, and taken back, exactly as if it had never been fed. The
/// twin of `edgesink/memory/asking.py`.
///
/// Owns which of its tokens are fed: the last ones, at most a chunk, for no more can be taken back.
enum Asking {
    static func ask(_ unfed: UnfedTurn, _ calibration: Calibration, _ conversation: Conversation) async throws -> AsFed
    {
        let session = conversation.session
        let ids = Array(unfed.turn.dropLast(unfed.closing).suffix(session.manifest.stream.chunk))
        let start = await session.position
        do {
            _ = try await session.feed(ids)
            let end = await session.position
            let message = (end - min(ids.count, unfed.message.count))..<end
            let asked = AsFed(
                words: Spoken(Array(ids.suffix(message.count)), conversation.tokenizer).words(),
                rows: try await session.rows(layer: calibration.numbers.layer, of: message),
                gateRows: try await session.rows(layer: calibration.numbers.gateLayer, of: message))
            try await takeBack(to: start, session)
            return asked
        } catch {
            try await takeBack(to: start, session)
            throw error
        }
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
