/// The golden tokens at load: few enough to wait for, enough to tell a wrong machine from a right one.
public enum SelfTest {
    public static let tokens = 24

    /// Of the golden tokens, how many must come out. Not all: half precision rounds near ties differently, and wrong
    /// arithmetic gives next to none.
    public static let leastShare = 0.9

    public static func run(_ golden: GoldenStream, on session: StreamSession) async throws {
        let agreement = try await golden.agreement(with: session, tokens: tokens)
        guard agreement.share >= leastShare else {
            throw EdgesinkError(
                .badBundle, "\(agreement.matched) of \(agreement.tokens) golden tokens came out",
                expected: "\(Int(leastShare * 100)) % or more",
                remedy: "try other compute units, or copy the bundle again")
        }
    }
}
