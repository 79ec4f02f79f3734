import EdgesinkCore

/// The words around what is brought back in a message. The twin of `quotation` in `edgesink/memory/recalling.py`.
enum Quotation {
    static let budget = 160  // tokens of a message that quotations may take
    private static let told: [Role: String] = [.user: "Earlier I told you:", .assistant: "Earlier you said:"]
    private static let wishes = "What I want from now on:"

    /// What is put before a message: standing instructions, and what was told, the older first; "" for nothing.
    ///
    /// `wishes`: standing instructions, the newest of which matter most. `found`: passages, the best first. `budget`:
    /// tokens that all of it may take; what does not fit is left out.
    static func text(wishes: [Passage], found: [Passage], budget: Int = budget, _ tokenizer: Tokenizer) -> String {
        var lines: [(isTold: Bool, passage: Int, text: String)] = []
        var budget = budget
        let ranked =
            wishes.reversed().map { ($0, Self.wishes, false) } + found.map { ($0, told[$0.role] ?? "", true) }
        for (passage, before, isTold) in ranked {
            let line = "\(before) “\(String(Scalars(passage.text).inOneLine))”"
            let cost = tokenizer.encode(line).count + 1
            if cost <= budget {
                budget -= cost
                lines.append((isTold, passage.id, line))
            }
        }
        return lines.sorted { ($0.isTold ? 1 : 0, $0.passage) < ($1.isTold ? 1 : 0, $1.passage) }
            .map(\.text).joined(separator: "\n")
    }
}
