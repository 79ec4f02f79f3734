import EdgesinkCore

/// `plan`: what a ring does with tokens, as numbers. No model is needed.
enum Plan {
    static let usage = "plan --sinks S --capacity C [--chunk T] [--tokens N]"

    static func run(_ words: some Sequence<String>) throws {
        let arguments = try Arguments(words, options: ["sinks", "capacity", "chunk", "tokens"])
        let ring = try Ring(
            sinks: arguments.value("sinks", 4), capacity: arguments.value("capacity", 1024),
            chunk: arguments.value("chunk", 1))
        print("window \(ring.window)  ring rows \(ring.slots)  buffer rows \(ring.rows)")
        print("token  slot  frame  query  forgotten")
        for token in 0..<(try arguments.value("tokens", min(2 * ring.rows, 40))) {
            let values = [
                token, ring.slot(token), ring.frame(token), ring.queryPosition(token), ring.evicted(token + 1),
            ]
            print(values.map(String.init).joined(separator: "  "))
        }
    }
}
