import EdgesinkCore

/// A command line: words, `--name value` options and `--name` switches. Whatever is not asked for is refused.
struct Arguments {
    private var words: [String] = []
    private var options: [String: String] = [:]
    private var switches: Set<String> = []

    init(_ arguments: some Sequence<String>, options known: [String], switches flags: [String] = []) throws {
        var rest = Array(arguments)[...]
        while let argument = rest.popFirst() {
            guard argument.hasPrefix("--") else {
                words.append(argument)
                continue
            }
            let name = String(argument.dropFirst(2))
            if flags.contains(name) {
                switches.insert(name)
            } else if known.contains(name), let value = rest.popFirst() {
                options[name] = value
            } else {
                throw UsageError(problem: known.contains(name) ? "\(argument) needs a value" : "no option \(argument)")
            }
        }
    }

    /// The one word that the command takes.
    func word(_ what: String) throws -> String {
        guard words.count == 1 else { throw UsageError(problem: "one \(what) expected, \(words.count) given") }
        return words[0]
    }

    func has(_ name: String) -> Bool { switches.contains(name) }

    func string(_ name: String) -> String? { options[name] }

    func value<Value: LosslessStringConvertible>(_ name: String, _ standard: Value) throws -> Value {
        guard let text = options[name] else { return standard }
        guard let value = Value(text) else {
            throw UsageError(problem: "--\(name) \(text) is not a valid \(Value.self)")
        }
        return value
    }

    func optional<Value: LosslessStringConvertible>(_ name: String, _ type: Value.Type) throws -> Value? {
        guard let text = options[name] else { return nil }
        guard let value = Value(text) else {
            throw UsageError(problem: "--\(name) \(text) is not a valid \(Value.self)")
        }
        return value
    }
}

/// The command line was not understood; exit code 2.
struct UsageError: Error {
    let problem: String
}
