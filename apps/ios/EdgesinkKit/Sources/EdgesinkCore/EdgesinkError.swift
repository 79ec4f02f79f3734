/// What a user can get wrong: what was found, what was expected, what to do. Same wording as `edgesink/errors.py`.
///
/// Anything else that is thrown is a bug or the system's (a cancelled task, a full disk).
public struct EdgesinkError: Error, Equatable {
    public enum Kind: String, Sendable {
        case badBundle  // a bundle folder is missing, truncated, altered or of another format version
        case badOption  // a value lies outside what the model or the bundle allows
        case badSession  // a session file is damaged or belongs to another bundle
        case badMemory  // an archive of what was said is of another program or a later version, or busy
        case damagedMemory  // an archive's file is damaged: another can be begun once it is set aside
        case badPlace  // a file cannot be read, made or replaced where the user wants it
        case badNumbers  // a graph computed what is not a finite number
        case missingLibrary  // what runs the graph is not on this machine
        case busy  // the stream is in use
        case noSpace  // the disk cannot hold the output
    }

    public let kind: Kind
    public let found: String  // a clause without a full stop
    public let expected: String  // may be empty
    public let remedy: String  // may be empty

    public init(_ kind: Kind, _ found: String, expected: String = "", remedy: String = "") {
        (self.kind, self.found, self.expected, self.remedy) = (kind, found, expected, remedy)
    }
}

extension EdgesinkError {
    /// What to do about bad numbers.
    static let broken = "start a new stream; if it happens again, check the bundle with `edgesink verify`"
}

extension EdgesinkError: CustomStringConvertible {
    public var description: String {
        [found, expected.isEmpty ? "" : "expected \(expected)", remedy].filter { !$0.isEmpty }.joined(separator: "; ")
    }
}
