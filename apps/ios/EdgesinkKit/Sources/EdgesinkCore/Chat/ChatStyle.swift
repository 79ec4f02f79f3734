import Foundation

/// One turn of a conversation.
public struct Message: Equatable, Sendable {
    public enum Role: String, Sendable { case system, user, assistant }

    public let role: Role
    public let content: String

    public init(_ role: Role, _ content: String) { (self.role, self.content) = (role, content) }
}

/// How a family of models writes a conversation down: what its jinja template does with plain messages.
enum ChatStyle: Equatable, Sendable {
    case chatML(defaultSystem: String?)
    case llama3(date: LlamaDate?)
    case mistral(MistralStyle)
    case gemma(beginsText: Bool)
    case zephyr

    /// What the templates of Llama 3.1 and 3.2 say of the day.
    enum LlamaDate: Equatable, Sendable { case fixed, today }

    struct MistralStyle: Equatable, Sendable {
        enum System: Equatable, Sendable { case refused, inFirstMessage, inLastMessage, inLastUserMessage }

        var open = "[INST] "
        var close = " [/INST]"
        var answer = " "  // before an answer
        var trimsAnswer = false
        var afterAnswer = ""  // between an answer and the end token
        var system = System.refused
    }

    func rendered(_ messages: [Message], prompting: Bool, bos: String, eos: String, date: Date) throws -> String {
        switch self {
        case .chatML(let system): Self.chatML(messages, system, prompting)
        case .llama3(let rule): Self.llama3(messages, rule, prompting, bos, date)
        case .mistral(let style): try style.rendered(messages, bos, eos)
        case .gemma(let begins): try Self.gemma(messages, prompting, begins ? bos : "")
        case .zephyr:
            messages.map { "<|\($0.role.rawValue)|>\n\($0.content)\(eos)\n" }.joined()
                + (prompting ? "<|assistant|>\n" : "")
        }
    }

    private static func chatML(_ messages: [Message], _ standard: String?, _ prompting: Bool) -> String {
        let system = messages.first?.role == .system ? nil : standard
        return ([system.map { Message(.system, $0) }].compactMap { $0 } + messages)
            .map { "<|im_start|>\($0.role.rawValue)\n\($0.content)<|im_end|>\n" }.joined()
            + (prompting ? "<|im_start|>assistant\n" : "")
    }

    private static func llama3(
        _ messages: [Message], _ rule: LlamaDate?, _ prompting: Bool, _ bos: String, _ date: Date
    ) -> String {
        func header(_ role: String) -> String { "<|start_header_id|>\(role)<|end_header_id|>\n\n" }
        var (text, rest) = (bos, messages[...])
        if let rule {
            let day = rule == .fixed ? "26 Jul 2024" : Self.day(date)
            let system = rest.first?.role == .system ? rest.removeFirst().content : ""
            text += header("system") + "Cutting Knowledge Date: December 2023\nToday Date: \(day)\n\n"
            text += stripped(system) + "<|eot_id|>"
        }
        for message in rest { text += header(message.role.rawValue) + stripped(message.content) + "<|eot_id|>" }
        return text + (prompting ? header("assistant") : "")
    }

    private static func gemma(_ messages: [Message], _ prompting: Bool, _ bos: String) throws -> String {
        if messages.first?.role == .system { throw refusal("System role not supported") }
        try checkAlternating(messages, "Conversation roles must alternate user/assistant/user/assistant/...")
        return bos
            + messages.map {
                "<start_of_turn>\($0.role == .assistant ? "model" : "user")\n\(stripped($0.content))<end_of_turn>\n"
            }.joined() + (prompting ? "<start_of_turn>model\n" : "")
    }

    /// As `%d %b %Y`: 05 Mar 2026.
    private static func day(_ date: Date) -> String {
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = .current
        let parts = calendar.dateComponents([.day, .month, .year], from: date)
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        let day = parts.day ?? 1
        return "\(day < 10 ? "0" : "")\(day) \(months[(parts.month ?? 1) - 1]) \(parts.year ?? 0)"
    }

    static func refusal(_ words: String) -> EdgesinkError {
        EdgesinkError(.badOption, "the chat template refuses this conversation (\(words))")
    }

    static func checkAlternating(_ messages: [Message], _ words: String) throws {
        for (index, message) in messages.enumerated() where (message.role == .user) != (index % 2 == 0) {
            throw refusal(words)
        }
    }
}

extension ChatStyle.MistralStyle {
    fileprivate func rendered(_ messages: [Message], _ bos: String, _ eos: String) throws -> String {
        var rest = messages
        var prefix: String?
        if system != .refused, rest.first?.role == .system { prefix = rest.removeFirst().content }
        let words = "onversation roles must alternate user/assistant/user/assistant/..."
        let before = system == .refused ? "C" : "After the optional system message, c"
        try ChatStyle.checkAlternating(rest, before + words)
        let lastUser = rest.last { $0.role == .user }
        func carriesSystem(_ index: Int, _ message: Message) -> Bool {
            switch system {
            case .refused: false
            case .inFirstMessage: index == 0
            case .inLastMessage: index == rest.count - 1
            case .inLastUserMessage: message == lastUser  // by value, as jinja compares: perhaps several
            }
        }
        return try bos
            + rest.enumerated().map { index, message in
                switch message.role {
                case .user:
                    let system = carriesSystem(index, message) ? prefix.map { $0 + "\n\n" } : nil
                    return open + (system ?? "") + message.content + close
                case .assistant:
                    return answer + (trimsAnswer ? stripped(message.content) : message.content) + afterAnswer + eos
                case .system: throw ChatStyle.refusal("Only user and assistant roles are supported!")
                }
            }.joined()
    }
}

/// Without the white space around it, as Python's `strip` sees it.
private func stripped(_ text: String) -> String {
    func isSpace(_ scalar: Unicode.Scalar) -> Bool {
        scalar.properties.isWhitespace || (0x1C...0x1F).contains(scalar.value)
    }
    let all = text.unicodeScalars
    guard let first = all.firstIndex(where: { !isSpace($0) }), let last = all.lastIndex(where: { !isSpace($0) }) else {
        return ""
    }
    return String(all[first...last])
}
