import Foundation

/// A bundle's chat template, rendered without jinja: the twin of `ChatTemplate` in `runtime/chat.py`.
///
/// `chat_template.jinja` is recognised by the statements that write: every one of a known family must be there, word for
/// word, whatever the template does besides (tools, comments, spacing). A template of no known family is refused, as a
/// conversation in the wrong format makes a model talk nonsense.
public struct ChatTemplate: Sendable {
    private let style: ChatStyle
    private let bos: String
    private let eos: String

    /// Put where an answer or a message will be, to see what stands around it; no template and no user writes it.
    private static let mark = "\u{2982}edgesink-earlier\u{2982}"

    public init(source: String, bos: String, eos: String) throws {
        let flat = Self.flattened(source)
        guard let known = Self.known.first(where: { $0.statements.allSatisfy { flat.contains(Self.flattened($0)) } })
        else {
            throw EdgesinkError(
                .badBundle, "\(BundleFiles.chatTemplate) is of no family known here",
                expected: "ChatML, Llama 3, Mistral Instruct, Gemma or Zephyr",
                remedy: "generate without a chat, or add the family to ChatTemplate.swift")
        }
        (style, self.bos, self.eos) = (known.style, bos, eos)
    }

    /// Read `chat_template.jinja` of the bundle.
    public init(bundle: URL, manifest: Manifest, tokenizer: Tokenizer) throws {
        guard let source = try? String(contentsOf: bundle.appending(path: BundleFiles.chatTemplate), encoding: .utf8)
        else {
            throw EdgesinkError(
                .badBundle, "no \(BundleFiles.chatTemplate) in \(bundle.path)", expected: "a chat model",
                remedy: "generate without a chat")
        }
        try self.init(
            source: source, bos: manifest.bosId.flatMap(tokenizer.token) ?? "",
            eos: manifest.eosIds.first.flatMap(tokenizer.token) ?? "")
    }

    /// The text of a whole conversation. `date` is what templates that tell the day take for today.
    public func rendered(_ messages: [Message], prompting: Bool = false, date: Date = Date()) throws -> String {
        try style.rendered(messages, prompting: prompting, bos: bos, eos: eos, date: date)
    }

    /// From the beginning of the conversation to where the first answer starts.
    public func firstTurn(_ message: String, system: String?) throws -> String {
        try rendered(Self.opening(system) + [Message(.user, message)], prompting: true)
    }

    /// From the end of an answer's text to where the next one starts.
    public func nextTurn(_ message: String) throws -> String {
        let earlier = [Message(.user, "?"), Message(.assistant, Self.mark)]
        let text = try rendered(earlier + [Message(.user, message)], prompting: true)
        guard let end = text.range(of: Self.mark)?.upperBound else { return text }
        return String(text[end...])
    }

    /// What stands before the first user message: the part that a stream may pin.
    public func systemTurn(_ system: String) throws -> String {
        let text = try firstTurn(Self.mark, system: system)
        guard let start = text.range(of: Self.mark)?.lowerBound else { return "" }
        return String(text[..<start])
    }

    private static func opening(_ system: String?) -> [Message] { system.map { [Message(.system, $0)] } ?? [] }

    // MARK: - Recognition

    private struct Known {
        let style: ChatStyle
        let statements: [String]  // of the template, all of them
    }

    /// Without the spaces, trim marks and kinds of quotes that jinja does not mind: two spellings of a statement become
    /// the same. What is within quotes stays.
    private static func flattened(_ source: String) -> String {
        var out = ""
        var quote: Character?
        var isInTag = !source.hasPrefix("{")  // the statements below may begin in the middle of one
        let marks = source.replacing("{{-", with: "{{").replacing("-}}", with: "}}")
            .replacing("{%-", with: "{%").replacing("-%}", with: "%}").replacing("\\n", with: "\n")
        var last: Character = " "
        for character in marks {
            defer { last = character }
            if let open = quote {
                out.append(character == open ? "'" : character)
                if character == open { quote = nil }
            } else if isInTag, character == "'" || character == "\"" {
                quote = character
                out.append("'")
            } else if !character.isWhitespace {
                if last == "{", character == "{" || character == "%" { isInTag = true }
                if character == "}", last == "}" || last == "%" { isInTag = false }
                out.append(character)
            }
        }
        return out.replacing("message['content']", with: "message.content").replacing(
            "message['role']", with: "message.role")
    }

    /// The most particular first.
    private static let known: [Known] =
        defaultSystems.map { system in
            Known(
                style: .chatML(defaultSystem: system),
                statements: [chatMLTurn, "'<|im_start|>system\n\(system)<|im_end|>\n'", chatMLPrompt])
        } + llama3 + mistral + [
            Known(
                style: .gemma(beginsText: true),
                statements: [
                    "{{ bos_token }}",
                    "'<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}",
                    "{{'<start_of_turn>model\n'}}", "raise_exception('System role not supported')",
                ]),
            Known(
                style: .gemma(beginsText: false),
                statements: [
                    "'<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}",
                    "{{'<start_of_turn>model\n'}}", "raise_exception('System role not supported')",
                ]),
            Known(
                style: .zephyr,
                statements: [
                    "{{ '<|user|>\n' + message['content'] + eos_token }}",
                    "{{ '<|system|>\n' + message['content'] + eos_token }}",
                    "{{ '<|assistant|>\n' + message['content'] + eos_token }}", "{{ '<|assistant|>' }}",
                ]),
            Known(
                style: .chatML(defaultSystem: nil),
                statements: [
                    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
                        + " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}" + chatMLPrompt
                ]),
        ]

    private static let chatMLTurn =
        "'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    private static let chatMLPrompt = "{{ '<|im_start|>assistant\n' }}"
    private static let defaultSystems = [
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        "You are a helpful assistant.",
    ]

    private static let llama3: [Known] = {
        let turn =
            "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>'"
        let prompt = "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        let dated = [
            turn, prompt, "{{ 'Cutting Knowledge Date: December 2023\n' }}",
            "{{ 'Today Date: ' + date_string + '\n\n' }}",
        ]
        return [
            Known(style: .llama3(date: .today), statements: dated + ["date_string = strftime_now('%d %b %Y')"]),
            Known(style: .llama3(date: .fixed), statements: dated + ["date_string = '26 Jul 2024'"]),
            Known(
                style: .llama3(date: nil),
                statements: ["{% set content = " + turn, "{% set content = bos_token + content %}", prompt]),
        ]
    }()

    private static let mistral: [Known] = {
        typealias Style = ChatStyle.MistralStyle
        let turn = "'[INST] ' + message['content'] + '[/INST]' }}"
        let systems: [(String, Style.System)] = [
            ("loop.last and system_message is defined", .inLastMessage),
            ("(message == user_messages[-1]) and system_message is defined", .inLastUserMessage),
        ]
        let third = systems.flatMap { condition, system in
            [("|trim", true), ("", false)].map { filter, trims in
                Known(
                    style: .mistral(Style(close: "[/INST]", trimsAnswer: trims, system: system)),
                    statements: [turn, condition, "' ' + message['content']\(filter) + eos_token"])
            }
        }
        let second = Known(
            style: .mistral(Style(answer: "")),
            statements: [
                "{{ '[INST] ' + message['content'] + ' [/INST]' }}", "{{ message['content'] + eos_token}}",
                "raise_exception('Conversation roles must alternate user/assistant/user/assistant/...')",
            ])
        let first = Known(
            style: .mistral(Style(open: " [INST] ", answer: " ", system: .inFirstMessage)),
            statements: [
                "{{ ' [INST] ' + system_message + '\n\n' + message['content'] + ' [/INST]' }}",
                "{{ ' [INST] ' + message['content'] + ' [/INST]' }}", "{{ ' ' + message['content'] + eos_token}}",
                "loop.first and system_message is defined",
            ])
        return third + [first, second]
    }()
}
