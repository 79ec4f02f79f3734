/// What remembers beyond the window, as a conversation asks it. The twin of `Memory` in `runtime/chat.py`.
///
/// Nothing that goes wrong with it may end a conversation, so it throws only where its task is cancelled.
public protocol ConversationMemory: Sendable {
    /// The message as it is to be fed: what belongs to it may stand around it, or in the stream until `putBack`.
    func around(_ message: String, in conversation: Conversation) async throws -> String

    /// Nothing more is read or answered in the exchange that `around` was asked for: what it lent the stream for the answer
    /// goes back. Called before `remember`, where nothing of the exchange was read, and more than once.
    func putBack() async

    /// Takes an exchange that has ended.
    func remember(_ exchange: Exchange, of conversation: Conversation) async

    /// The stream was reset or restored: what comes next does not go on from what was remembered last.
    func streamChanged() async
}

extension ConversationMemory {
    /// For one that lends nothing.
    public func putBack() async {}
}

/// Ids that are fed to get an answer to a message, and where they stand in the stream. The twin of `Unfed` in
/// `runtime/turn_feed.py`.
public struct UnfedTurn: Equatable, Sendable {
    public let start: Int  // position of the stream where they begin
    public let answer: [Int]  // what is left of the last answer
    public let turn: [Int]  // behind it
    public let before: Int  // ids of the turn before the message
    public let closing: Int  // ids of the turn behind the message

    /// Position of the turn's first id.
    public var turnStart: Int { start + answer.count }

    /// Position of the message's first id.
    public var messageStart: Int { turnStart + before }

    /// Position behind all of it: where an answer begins.
    public var end: Int { turnStart + turn.count }

    /// The ids of the message.
    public var message: [Int] { Array(turn.dropFirst(before).dropLast(closing)) }
}

/// A message and the answer to it, once nothing more is made of it.
public struct Exchange: Equatable, Sendable {
    public let message: String  // as it was said
    public let unfed: UnfedTurn  // as its reading began
    public let answer: String  // without control tokens; empty if there was none

    public init(message: String, unfed: UnfedTurn, answer: String) {
        (self.message, self.unfed, self.answer) = (message, unfed, answer)
    }
}
