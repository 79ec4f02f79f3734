import EdgesinkCore
import Foundation
import TestSupport
import Testing

@testable import EdgesinkMemory

@Suite("The archive: kept turn by turn, bounded, private, whole after a kill, and what is forgotten is gone")
struct ArchiveTests {
    /// Passages of ten tokens each.
    private static func said(_ texts: [String], first: Int = 0) -> [NewPassage] {
        texts.enumerated().map { NewPassage(first: first + 10 * $0, last: first + 10 * $0 + 10, text: $1) }
    }

    private static func texts(_ archive: Archive) throws -> [String] {
        var texts: [String] = []
        try archive.export { texts.append($0.text) }
        return texts
    }

    /// All files of a folder, in lower case.
    private static func onDisk(_ folder: URL) throws -> Data {
        let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
        let bytes = try files.flatMap { try Data(contentsOf: $0) }
        return Data(bytes.map { (0x41...0x5A).contains($0) ? $0 + 32 : $0 })
    }

    private static func kind(_ body: () throws -> Void) -> EdgesinkError.Kind? {
        do { try body() } catch { return (error as? EdgesinkError)?.kind }
        return nil
    }

    private static func mode(_ file: URL) throws -> Int? {
        try FileManager.default.attributesOfItem(atPath: file.path)[.posixPermissions] as? Int
    }

    @Test func whatWasSaidComesBackInOrder() throws {
        let folder = try TemporaryFolder()
        let archive = try Archive(folder.file("talk.memory"))
        let stream = try archive.beginStream(fingerprint: "print", prefix: [1, 2])
        #expect(try archive.add(stream: stream, role: .user, Self.said(["one", "two"])) == [1, 2])
        try archive.add(stream: stream, role: .assistant, Self.said(["three"], first: 20))
        #expect(try Self.texts(archive) == ["one", "two", "three"])
        #expect(try archive.newest(2).map(\.text) == ["three", "two"])
        #expect(try archive.newest(2, before: 3).map(\.first) == [10, 0])
        #expect(try archive.get([2, 9])[2]?.last == 20)
        #expect(try archive.hasUnseen(stream: stream, seenFrom: 0) == false)
        #expect(try archive.hasUnseen(stream: stream, seenFrom: 1))
        #expect(try archive.hasUnseen(stream: stream + 1, seenFrom: 0))
        archive.close()
    }

    @Test func aFileThatIsOpenedAgainHasEverythingAndOnlyItsOwnerMayReadIt() throws {
        let folder = try TemporaryFolder()
        let file = folder.file("talk.memory")
        let first = try Archive(file)
        let text = "kept: Ærø 東京 😀, e\u{301}, and a null \0 in the middle"
        try first.add(stream: first.beginStream(fingerprint: "print"), role: .user, Self.said([text, ""]))
        #expect(try Self.mode(file) == 0o600)
        #expect(try Self.mode(folder.file("talk.memory-wal")) == 0o600)
        first.close()
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.url.path) == ["talk.memory"])
        try FileManager.default.setAttributes([.posixPermissions: 0o644], ofItemAtPath: file.path)
        let again = try Archive(file, make: false)
        #expect(try Self.texts(again).map { Scalars($0) } == [Scalars(text), []])
        #expect(try Self.mode(file) == 0o600)
        try again.check()
        again.close()
    }

    @Test func aStreamIsResumedWhereItsSessionWasSaved() throws {
        let folder = try TemporaryFolder()
        let archive = try Archive(folder.file("talk.memory"))
        let stream = try archive.beginStream(fingerprint: "print", prefix: [5])
        try archive.add(stream: stream, role: .user, Self.said(["before", "across", "behind"]))
        let resumed = try archive.resumeStream(fingerprint: "print", position: 15)
        #expect(resumed.stream == stream && resumed.prefix == [5])
        #expect(try archive.newest(3).map(\.first) == [nil, nil, 0])
        let other = try archive.resumeStream(fingerprint: "another bundle", position: 15)
        #expect(other.stream == stream + 1 && other.prefix.isEmpty)
        archive.close()
    }

    @Test(arguments: ["{", "[1, 1.5]", "[true]", "7", "[-1]"])
    func firstIdsThatAreNoneAreDamage(prefix: String) throws {
        let folder = try TemporaryFolder()
        let archive = try Archive(folder.file("talk.memory"))
        _ = try archive.beginStream(fingerprint: "print", prefix: [5])
        _ = try archive.reading { try $0.run("UPDATE stream SET prefix = ?", [.text(prefix)]) }
        #expect(Self.kind { _ = try archive.resumeStream(fingerprint: "print", position: 0) } == .damagedMemory)
        archive.close()
    }

    @Test func whatIsForgottenIsNotInTheFileNorBesideIt() throws {
        let folder = try TemporaryFolder()
        let archive = try Archive(folder.file("talk.memory"))
        let stream = try archive.beginStream(fingerprint: "print")
        let many = (0..<300).map { "An ordinary sentence, number \($0), that stays." }
        try archive.add(stream: stream, role: .user, Self.said(many))
        let secret = try archive.add(
            stream: stream, role: .user, Self.said(["My safe is behind the xylophonographer."]))
        try archive.add(stream: stream, role: .user, Self.said(many.map { "Another one. \($0)" }))
        #expect(try Self.onDisk(folder.url).firstRange(of: Data("xylophonograph".utf8)) != nil)
        #expect(try archive.forget(secret + secret + [9999]) == 1)
        #expect(try Self.onDisk(folder.url).firstRange(of: Data("lophonograph".utf8)) == nil)
        #expect(try Self.onDisk(folder.url).firstRange(of: Data("another one. an ordinary".utf8)) != nil)
        #expect(try archive.forgetAll() == 600)
        #expect(try Self.onDisk(folder.url).firstRange(of: Data("sentence".utf8)) == nil)
        #expect(try archive.count == 0)
        try archive.check()
        try archive.add(stream: stream, role: .user, Self.said(["The stream that is talked in is still known."]))
        archive.close()
    }

    @Test func theOldestGoFirstAndInstructionsStay() throws {
        let folder = try TemporaryFolder()
        let archive = try Archive(folder.file("small.memory"), mostBytes: 1 << 20)
        let stream = try archive.beginStream(fingerprint: "print")
        let wish = NewPassage(first: 0, last: 9, text: "From now on, be brief.", isStanding: true)
        try archive.add(stream: stream, role: .user, [wish])
        let length = String(repeating: "a sentence of some length, as people write them ", count: 8)
        for start in stride(from: 0, to: 3000, by: 50) {
            let some = (start..<start + 50).map { "number \($0): \(length)" }
            try archive.add(stream: stream, role: .user, Self.said(some))
        }
        #expect(try archive.bytes <= 1 << 20)
        let kept = try Self.texts(archive)
        #expect(kept.first == "From now on, be brief.")
        let numbers = kept.dropFirst().compactMap { Int($0.dropFirst(7).prefix { $0 != ":" }) }
        #expect(numbers == Array((3000 - numbers.count)..<3000), "what is left are the newest, all of them")
        #expect(numbers.count > 500)
        try archive.check()
        archive.close()
    }

    private static func withVectors(_ count: Int, size: Int = 64) -> [NewPassage] {
        (0..<count).map {
            let vectors = PackedVectors(tokens: .init(repeating: 3, count: 8 * size), mean: [Int8($0 % 7), 9])
            return NewPassage(first: 0, last: 8, text: "passage \($0)", vectors: vectors)
        }
    }

    private static func means(_ archive: Archive) throws -> [Means] {
        var found: [Means] = []
        try archive.reading { try Packs.read(1, $0) { found.append($0) } }
        return found
    }

    @Test func vectorsOfTheOldestGoBeforeAnyText() throws {
        let folder = try TemporaryFolder()
        let archive = try Archive(folder.file("small.memory"), mostBytes: 1 << 20)
        let stream = try archive.beginStream(fingerprint: "print")
        for _ in 0..<16 {
            try archive.add(stream: stream, role: .user, Self.withVectors(128, size: 128), space: "layer 3")
        }
        #expect(try archive.count == 2048)
        let left = try archive.reading { try $0.run("SELECT passage FROM vectors ORDER BY passage").map { $0[0] } }
        #expect(!left.isEmpty && left.count < 2048)
        #expect(left == ((2049 - left.count)...2048).map { .int($0) })
        #expect(try Self.means(archive).flatMap(\.passages).map { .int($0) } == left)
        archive.close()
    }

    @Test func meansArePackedAndWhatIsForgottenLeavesItsPack() throws {
        let folder = try TemporaryFolder()
        let archive = try Archive(folder.file("talk.memory"))
        let stream = try archive.beginStream(fingerprint: "print")
        try archive.add(stream: stream, role: .user, Self.withVectors(Packs.size), space: "layer 3")
        try archive.add(stream: stream, role: .user, Self.withVectors(5), space: "layer 3")
        try archive.forget([2, Packs.size + 1])
        let means = try Self.means(archive)
        #expect(means.map(\.passages) == [[1] + Array(3...Packs.size), Array((Packs.size + 2)...(Packs.size + 5))])
        #expect(means[0].vectors.prefix(6) == [0, 9, 2, 9, 3, 9])
        try archive.forget([1] + Array(3...Packs.size))
        #expect(try archive.reading { try $0.int("SELECT count(*) FROM pack") } == 0)
        archive.close()
    }

    @Test(arguments: [
        "UPDATE vectors SET mean = 'text' WHERE passage = 515",
        "UPDATE vectors SET mean = x'010203' WHERE passage = 515",
        "UPDATE pack SET means = x'010203'", "UPDATE pack SET passages = x'01'", "UPDATE pack SET passages = x''",
        "UPDATE pack SET means = x''", "UPDATE pack SET means = zeroblob(512)",
    ])
    func vectorsOfAnotherWidthAreDamage(damage: String) throws {
        let folder = try TemporaryFolder()
        let archive = try Archive(folder.file("talk.memory"))
        let stream = try archive.beginStream(fingerprint: "print")
        try archive.add(stream: stream, role: .user, Self.withVectors(Packs.size, size: 2), space: "layer 3")
        try archive.add(stream: stream, role: .user, Self.withVectors(5, size: 2), space: "layer 3")
        func search() throws -> [Hit] {
            try archive.reading {
                try Likeness.search(Rows(width: 2, [0.6, 0.8]), weights: [1], space: "layer 3", count: 600, $0)
            }
        }
        #expect(try search().count == Likeness.exact)
        _ = try archive.reading { try $0.run(damage) }
        #expect(Self.kind { _ = try search() } == .damagedMemory)
        archive.close()
    }

    @Test func aTurnWhoseWritingFailsIsNotThereInPart() throws {
        let folder = try TemporaryFolder()
        let archive = try Archive(folder.file("talk.memory"))
        let stream = try archive.beginStream(fingerprint: "print")
        #expect(Self.kind { _ = try archive.add(stream: 9, role: .user, Self.said(["no such stream"])) } != nil)
        #expect(try archive.count == 0)
        try archive.add(stream: stream, role: .user, Self.said(["next"]))
        archive.close()
    }

    /// What a process leaves that is killed in the middle of a turn: the file and its log as they are then.
    @Test func whatIsLeftInTheMiddleOfAWriteHasAllThatWasFinishedAndNothingElse() throws {
        let folder = try TemporaryFolder()
        let archive = try Archive(folder.file("talk.memory"))
        let stream = try archive.beginStream(fingerprint: "print")
        try archive.add(stream: stream, role: .user, Self.said(["finished"]))
        try archive.writing { database in
            for number in 0..<2000 {
                try database.run(
                    "INSERT INTO passage VALUES (NULL, 1, 0, 1, 'user', 0.5, 0, ?)",
                    [.text("half of a turn \(number)")])
            }
            for ending in ["", "-wal"] {
                try FileManager.default.copyItem(
                    at: folder.file("talk.memory\(ending)"), to: folder.file("killed.memory\(ending)"))
            }
        }
        let left = try Archive(folder.file("killed.memory"), make: false)
        try left.check()
        #expect(try Self.texts(left) == ["finished"])
        #expect(try archive.count == 2001)
        left.close()
        archive.close()
    }

    @Test(arguments: ["no database", "cut short", "overwritten"])
    func aDamagedFileIsRefusedAsItIsAndCanBeSetAside(damage: String) throws {
        let folder = try TemporaryFolder()
        let file = folder.file("talk.memory")
        let archive = try Archive(file)
        let stream = try archive.beginStream(fingerprint: "print")
        let many = (0..<300).map { String(repeating: "sentence \($0) ", count: 20) }
        try archive.add(stream: stream, role: .user, Self.said(many))
        archive.close()
        let whole = try Data(contentsOf: file)
        let broken =
            switch damage {
            case "no database": Data(String(repeating: "hello", count: 1000).utf8)
            case "cut short": whole.prefix(whole.count / 3)
            default: whole.prefix(200) + Data(repeating: 0xFF, count: whole.count - 200)
            }
        try broken.write(to: file)
        #expect(Self.kind { _ = try Archive(file) } == .damagedMemory)
        #expect(try Data(contentsOf: file) == broken)
        #expect(try ArchiveFile.setAside(file).lastPathComponent == "talk.memory.damaged-1")
        #expect(try Data(contentsOf: folder.file("talk.memory.damaged-1")) == broken)
        let fresh = try Archive(file)
        #expect(try fresh.count == 0)
        fresh.close()
    }

    @Test func theDatabaseOfAnotherProgramIsRefusedAndLeftAlone() throws {
        let folder = try TemporaryFolder()
        let file = folder.file("bookmarks.sqlite")
        let other = try Database(file.path, wait: .zero)
        try other.run("CREATE TABLE bookmark (address TEXT)")
        other.close()
        let before = try Data(contentsOf: file)
        #expect(Self.kind { _ = try Archive(file) } == .badMemory)
        #expect(try Data(contentsOf: file) == before)
    }

    @Test func whatIsNoMemoryIsRefusedByName() throws {
        let folder = try TemporaryFolder()
        #expect(Self.kind { _ = try Archive(folder.file("none"), make: false) } == .badMemory)
        #expect(Self.kind { _ = try Archive(folder.file("no folder/talk.memory")) } == .badPlace)
        #expect(Self.kind { _ = try Archive(folder.url) } == .badPlace)
        #expect(Self.kind { _ = try Archive(folder.file("talk.memory"), mostBytes: 1000) } == .badOption)
        let later = try Archive(folder.file("later"))
        _ = try later.reading { try $0.run("PRAGMA user_version = 9") }
        later.close()
        #expect(Self.kind { _ = try Archive(folder.file("later")) } == .badMemory)
        later.close()
        #expect(Self.kind { _ = try later.count } == .badMemory, "it was closed")
    }

    @Test func anotherProcessThatWritesIsWaitedForAndThenNamed() throws {
        let folder = try TemporaryFolder()
        let one = try Archive(folder.file("talk.memory"))
        let two = try Archive(folder.file("talk.memory"), wait: .milliseconds(50))
        let stream = try one.beginStream(fingerprint: "print")
        _ = try one.writing { _ in
            #expect(
                Self.kind { _ = try two.add(stream: stream, role: .user, Self.said(["late"])) } == .badMemory)
        }
        try two.add(stream: stream, role: .user, Self.said(["in time"]))
        #expect(try Self.texts(one) == ["in time"])
        one.close()
        two.close()
    }

    @Test(arguments: ["\"", "a OR b", "NEAR(x y)", "shed*", "text:shed", "^", "-", "'; DROP TABLE passage; --", "日本"])
    func noMessageIsTakenForAQuery(message: String) throws {
        let folder = try TemporaryFolder()
        let archive = try Archive(folder.file("talk.memory"))
        let stream = try archive.beginStream(fingerprint: "print")
        try archive.add(stream: stream, role: .user, Self.said(["Something about nothing in particular."]))
        #expect(try Search(archive: archive, stream: 0, seenFrom: 0, count: 4).search(message).isEmpty)
        #expect(try archive.count == 1)
        archive.close()
    }
}
