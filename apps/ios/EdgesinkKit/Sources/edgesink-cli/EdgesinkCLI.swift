import EdgesinkCore
import Foundation

/// The command line of EdgesinkKit: results on stdout, everything else on stderr.
@main
enum EdgesinkCLI {
    static let usage =
        "usage: edgesink-cli COMMAND …\n"
        + [
            Plan.usage, Tokenize.usage, Inspect.usage, Generate.usage, Talk.usage, Remembered.usage, Check.usage,
        ].map { "  \($0)\n" }.joined()

    static func main() async {
        let words = CommandLine.arguments.dropFirst()
        do {
            switch words.first {
            case "plan": try Plan.run(words.dropFirst())
            case "tokenize": try Tokenize.run(words.dropFirst())
            case "inspect": try Inspect.run(words.dropFirst())
            case "generate": try await Generate.run(words.dropFirst())
            case "talk": try await Talk.run(words.dropFirst())
            case "memory": try Remembered.run(words.dropFirst())
            case "check": try await Check.run(words.dropFirst())
            case "help", "--help", "-h": print(usage)
            case let other: throw UsageError(problem: other.map { "no command \($0)" } ?? "no command given")
            }
        } catch let error as UsageError {
            fail("\(error.problem)\n\(usage)", code: 2)
        } catch {
            fail("error: \(error)", code: 1)
        }
    }

    private static func fail(_ text: String, code: Int32) -> Never {
        FileHandle.standardError.write(Data((text + "\n").utf8))
        exit(code)
    }
}
