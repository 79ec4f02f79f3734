import Foundation
import TestSupport
import Testing

@testable import EdgesinkCore

@Suite("SHA-256: the published examples of FIPS 180-4")
struct SHA256Tests {
    private static let examples = [
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
        ),
    ]

    private static func portable(_ data: Data, pieces: Int) -> String {
        var hash = PortableSHA256()
        for start in stride(from: 0, to: data.count, by: pieces) {
            hash.update(data[start..<min(start + pieces, data.count)])
        }
        return hash.finalize().map { String(format: "%02x", $0) }.joined()
    }

    @Test(arguments: examples) func digestsTheExamples(text: String, digest: String) {
        #expect(SHA256Digest.of(Data(text.utf8)) == digest)
        #expect(Self.portable(Data(text.utf8), pieces: 7) == digest)
    }

    @Test func digestsAMillionLettersInPiecesOfAnySize() throws {
        let digest = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
        let data = Data(repeating: UInt8(ascii: "a"), count: 1_000_000)
        #expect(Self.portable(data, pieces: 999) == digest)
        let folder = try TemporaryFolder()
        try data.write(to: folder.file("a"))
        #expect(try SHA256Digest.of(file: folder.file("a")) == digest)
    }
}
