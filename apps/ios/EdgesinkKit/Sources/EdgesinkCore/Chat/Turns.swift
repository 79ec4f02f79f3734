import Foundation

/// A part of a turn. The twin of `Piece` in `edgesink/turns.py`, as all of this file is of that one.
public struct Piece: Equatable, Sendable {
    public enum Kind: String, Sendable { case token, text, system, user, date }

    /// On which side the template strips what was said.
    public enum Trim: String, Sendable { case none, left, right, both }

    public let kind: Kind  // system and user are places for what was said; date is for today's
    public let text: String  // the token as the vocabulary spells it, the ordinary text, or the date's format
    public let id: Int?  // of a token
    public let trim: Trim
}

/// The turns of a conversation.
public struct Script: Equatable, Sendable {
    public let first: [Piece]  // from the beginning of the conversation to where the first answer starts
    public let later: [Piece]  // from the end of an answer's text to where the next answer starts

    /// Every turn has the system prompt.
    public var repeatsSystem: Bool { later.contains { $0.kind == .system } }
}

/// A text in a message that the template writes in a way of its own, or takes for an order.
public struct Trigger: Equatable, Sendable {
    public enum Role: String, Sendable { case system, user }

    public let role: Role
    public let text: String
}

/// How a model's conversations are written.
public struct Turns: Equatable, Sendable {
    public let withoutSystem: Script?  // nil: a system prompt is demanded
    public let withSystem: Script?  // nil: no system prompt is taken
    public let refusal: String  // why one of the two is nil; empty if neither is
    public let blankSystem: Bool  // an empty system prompt is written as any other
    public let end: [Piece]  // what the template writes behind the last answer
    public let controls: [Int]  // added tokens that no message becomes, besides those marked special in tokenizer.json
    public let triggers: [Trigger]  // a message with one is refused
    public let notes: [String]  // for people: where a stream differs from the template, and what is lost

    /// All of them.
    public var pieces: [Piece] { [withoutSystem, withSystem].compactMap { $0 }.flatMap { $0.first + $0.later } + end }

    /// The tokens in it, each once, in order.
    public var ids: [Int] { Set(pieces.compactMap(\.id) + controls).sorted() }

    /// The turns of a conversation with this system prompt; an error where the template has none such.
    public func script(system: String?) throws -> Script {
        guard let script = system == nil ? withoutSystem : withSystem else {
            throw system == nil
                ? EdgesinkError(.badOption, "no system prompt", expected: "one (\(refusal))", remedy: "give one")
                : EdgesinkError(
                    .badOption, "a system prompt", expected: "none (\(refusal))",
                    remedy: "put it into the first message")
        }
        if let system {
            if !blankSystem, isBlank(system) {
                throw EdgesinkError(.badOption, "an empty system prompt", expected: "some text, or none")
            }
            try checkTriggers(.system, system)
        }
        return script
    }

    /// An error if a user's message cannot be written as it is.
    public func check(message: String) throws {
        if isBlank(message) { throw EdgesinkError(.badOption, "an empty message", expected: "some text") }
        try checkTriggers(.user, message)
    }

    private func checkTriggers(_ role: Trigger.Role, _ said: String) throws {
        for trigger in triggers where trigger.role == role && said.utf8.firstRange(of: trigger.text.utf8) != nil {
            throw EdgesinkError(
                .badOption, "\(JSON.string(trigger.text).shown) in a message of the \(role.rawValue)",
                expected: "none: the model's chat template gives it a meaning of its own")
        }
    }
}

// MARK: - Writing

/// A control token, or text between two of them.
public enum TurnPart: Equatable, Sendable {
    case token(Int)
    case text(String)
}

extension [Piece] {
    /// The pieces with what was said in their places, the text between two control tokens in one part.
    public func written(system: String?, user: String, date: Date) -> [TurnPart] {
        var parts: [TurnPart] = []
        for piece in self {
            if let id = piece.id {
                parts.append(.token(id))
                continue
            }
            let text = piece.written(system: system ?? "", user: user, date: date)
            if case .text(let before)? = parts.last {
                parts[parts.count - 1] = .text(before + text)
            } else if !text.isEmpty {
                parts.append(.text(text))
            }
        }
        return parts
    }

    /// What stands before the first place of the user's message.
    var beforeMessage: [Piece] { Array(prefix { $0.kind != .user }) }

    /// What stands behind the last place of the user's message.
    var behindMessage: [Piece] { Array(suffix(from: (lastIndex { $0.kind == .user } ?? endIndex - 1) + 1)) }
}

extension Piece {
    fileprivate func written(system: String, user: String, date: Date) -> String {
        switch kind {
        case .token, .text: text
        case .date: formatted(date, text)
        case .system: trimmed(system)
        case .user: trimmed(user)
        }
    }

    private func trimmed(_ said: String) -> String {
        var scalars = said.unicodeScalars[...]
        if trim == .left || trim == .both { scalars = scalars.drop(while: isSpace) }
        if trim == .right || trim == .both {
            while let last = scalars.last, isSpace(last) { scalars.removeLast() }
        }
        return String(scalars)
    }
}

/// White space as Python's `strip` sees it.
private func isSpace(_ scalar: Unicode.Scalar) -> Bool {
    scalar.properties.isWhitespace || (0x1C...0x1F).contains(scalar.value)
}

private func isBlank(_ text: String) -> Bool { text.unicodeScalars.allSatisfy(isSpace) }
