import EdgesinkCore
import Foundation

/// The model itself as the judge of what belongs to a message: how much likelier the message is behind a passage. The twin
/// of `edgesink/memory/judging.py`.
///
/// Owns this measurement; `Asking` feeds the message, and takes all of it back. What follows from it is `Search`'s. A graph
/// gives the logits after the last of its tokens, so a message is read token by token, and by itself only when a passage is
/// judged for it.
actor Judge {
    static let mostMessage = 24  // tokens of a message that are judged, its first
    static let mostGain = 2.0  // nats that one token counts at most, up or down
    static let fewestRoom = 8  // tokens of a passage that must fit in a chunk with the message, for it to be judged

    private let conversation: Conversation
    private let message: [Int]
    private let room: Int  // tokens of a passage that are read at most: what stays before it fits in a chunk with it
    private var alone: [Double]?  // what the message costs by itself

    /// `head`: tokens that are fed before the message; it stands behind them whenever it judges. `isStart`: the stream is at
    /// its start before them, so that nothing has to be taken back token by token. nil where the message's beginning is
    /// missing, or leaves no room for a passage.
    init?(_ conversation: Conversation, head: Int, isStart: Bool, message: [Int]) {
        (self.conversation, self.message) = (conversation, Array(message.prefix(Self.mostMessage)))
        let kept = isStart ? 0 : head
        room = conversation.session.manifest.stream.chunk - kept - self.message.count + 1
        guard head > 0, !message.isEmpty, room >= Self.fewestRoom else { return nil }
    }

    /// How much likelier a passage makes the message: nats a token, below 0 if less likely, each token but the first
    /// counting `mostGain` at most; 0 for a message of one token, minus infinity for a passage that cannot be encoded.
    func gain(of passage: String) async throws -> Double {
        if message.count == 1 { return 0 }
        let ids: [Int]
        do {
            ids = try conversation.ids(ofText: String(Scalars(passage).inOneLine) + "\n")
        } catch let error as EdgesinkError where error.kind == .badOption {
            return -.infinity
        }
        let alone = if let known = self.alone { known } else { try await nats(behind: []) }
        self.alone = alone
        let gains = zip(alone, try await nats(behind: Array(ids.prefix(room)))).map {
            min(max($0 - $1, -Self.mostGain), Self.mostGain)
        }
        return gains.reduce(0, +) / Double(gains.count)
    }

    /// How much each token of the message but the first surprises the model behind some ids; all is taken back.
    private func nats(behind before: [Int]) async throws -> [Double] {
        let session = conversation.session
        var logits = try await session.feed(before + [message[0]])
        var nats = [Self.surprise(of: message[1], logits)]
        for (id, next) in zip(message[1...], message[2...]) {
            logits = try await session.feed([id])
            nats.append(Self.surprise(of: next, logits))
        }
        try await session.rewind(before.count + message.count - 1)
        return nats
    }

    /// Nats of an id by the logits before it.
    static func surprise(of id: Int, _ logits: [Float]) -> Double {
        let top = logits.max() ?? 0
        return log(logits.reduce(0) { $0 + Double(exp($1 - top)) }) + Double(top - logits[id])
    }
}
