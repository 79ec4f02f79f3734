import EdgesinkCore

/// The words around what is brought back in a message. The twin of `fitting` and `quoted` in
/// `edgesink/memory/recalling.py`.
enum Quotation {
    static let budget = 160  // tokens of a message that quotations may take
    private static let told: [Role: String] = [.user: "I told you:", .assistant: "You said:"]
    private static let wishes = "What I want from now on:"

    /// The standing instructions and the passages that a message has room for, each in their order.
    ///
    /// `wishes`: standing instructions, the newest of which matter most. `found`: passages, the best first. `budget`:
    /// tokens that all of it may take.
    static func fitting(
        wishes: [Passage], found: [Passage], budget: Int = budget, _ tokenizer: Tokenizer
    ) -> (wishes: [Passage], found: [Passage]) {
        var budget = budget
        func fits(_ text: String, _ more: Int) -> Bool {
            let cost = tokenizer.encode(text).count + more
            guard cost <= budget else { return false }
            budget -= cost
            return true
        }
        let kept = wishes.reversed().filter { fits(line(of: $0), 1) }
        return (kept.reversed(), found.filter { fits(" (\(told[$0.role] ?? "") \(inOneLine($0)))", 0) })
    }

    /// A message with instructions before it, and behind it what was told, the best last: nearest the answer.
    static func text(of message: String, wishes: [Passage], found: [Passage]) -> String {
        var written = message
        let behind = Array(found.reversed())
        for (at, one) in behind.enumerated() {
            let goesOn = at > 0 && behind[at - 1].role == one.role
            written += goesOn ? " \(inOneLine(one))" : "\(at > 0 ? ")" : "") (\(told[one.role] ?? "") \(inOneLine(one))"
        }
        if !behind.isEmpty { written += ")" }
        let lines = wishes.sorted { $0.id < $1.id }.map(line)
        return (lines + (lines.isEmpty ? [] : [""]) + [written]).joined(separator: "\n")
    }

    private static func line(of wish: Passage) -> String { "\(wishes) “\(inOneLine(wish))”" }

    /// What a passage says, without a line break.
    static func inOneLine(_ passage: Passage) -> String { String(Scalars(passage.text).inOneLine) }

    /// Where a message begins in what was fed for it, quotations included; nil if it is not there as it was said.
    static func place(of message: Scalars, in written: Scalars) -> Int? {
        let isBehind = written.starts(with: Scalars(wishes))  // each instruction is one line
        let behind = isBehind ? written.place(of: Scalars("\n\n"), from: 0) ?? 0 : 0
        return written.place(of: message, from: behind) ?? written.place(of: message, from: 0)
    }
}

extension Scalars {
    /// Where another text begins in it first, from a place on; nil if it is not there.
    fileprivate func place(of other: Scalars, from start: Int) -> Int? {
        guard count - start >= other.count else { return nil }
        return (start...(count - other.count)).first { self[$0...].starts(with: other) }
    }
}
