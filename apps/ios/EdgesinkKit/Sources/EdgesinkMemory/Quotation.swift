import EdgesinkCore

/// The words around what is brought back in a message. The twin of `quoted` in `edgesink/memory/recalling.py`.
enum Quotation {
    static let budget = 160  // tokens of a message that quotations may take
    private static let told: [Role: String] = [.user: "I told you:", .assistant: "You said:"]
    private static let wishes = "What I want from now on:"

    /// A message with standing instructions before it, and behind it what was told, the best last: nearest the answer.
    ///
    /// `wishes`: standing instructions, the newest of which matter most. `found`: passages, the best first. `budget`:
    /// tokens that all of it may take; what does not fit is left out.
    static func text(
        of message: String, wishes: [Passage], found: [Passage], budget: Int = budget, _ tokenizer: Tokenizer
    ) -> String {
        var budget = budget
        func fits(_ text: String, _ more: Int) -> Bool {
            let cost = tokenizer.encode(text).count + more
            guard cost <= budget else { return false }
            budget -= cost
            return true
        }
        var before: [(passage: Int, line: String)] = []
        for wish in wishes.reversed() {
            let line = "\(Self.wishes) “\(String(Scalars(wish.text).inOneLine))”"
            if fits(line, 1) { before.append((wish.id, line)) }
        }
        var behind: [(role: Role, text: String)] = []
        for passage in found {
            let text = String(Scalars(passage.text).inOneLine)
            if fits(" (\(told[passage.role] ?? "") \(text))", 0) { behind.insert((passage.role, text), at: 0) }
        }
        var written = message
        for (at, one) in behind.enumerated() {
            let goesOn = at > 0 && behind[at - 1].role == one.role
            written += goesOn ? " \(one.text)" : "\(at > 0 ? ")" : "") (\(told[one.role] ?? "") \(one.text)"
        }
        if !behind.isEmpty { written += ")" }
        let lines = before.sorted { $0.passage < $1.passage }.map(\.line)
        return (lines + (lines.isEmpty ? [] : [""]) + [written]).joined(separator: "\n")
    }

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
