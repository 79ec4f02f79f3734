import EdgesinkCore
import Foundation

/// Who said something.
public enum Role: String, Sendable { case user, assistant }

/// A passage as it is kept.
public struct Passage: Equatable, Sendable, Identifiable {
    public let id: Int
    public let stream: Int
    public let first: Int?  // position of its first token in that stream; nil: no stream has it any more
    public let last: Int?  // behind its last
    public let role: Role
    public let said: Double  // seconds since 1970
    public let isStanding: Bool  // an instruction that holds from now on
    public let text: String
}

/// A passage to be kept.
public struct NewPassage: Sendable {
    public let first: Int
    public let last: Int
    public let text: String
    public let isStanding: Bool
    public let vectors: PackedVectors?

    public init(first: Int, last: Int, text: String, isStanding: Bool = false, vectors: PackedVectors? = nil) {
        (self.first, self.last, self.text, self.isStanding, self.vectors) = (first, last, text, isStanding, vectors)
    }
}

/// Vectors of a passage as they are kept: directions, of any length.
public struct PackedVectors: Equatable, Sendable {
    public let tokens: [Int8]  // [n, d]: of the tokens that matter
    public let mean: [Int8]  // [d], their mean

    public init(tokens: [Int8], mean: [Int8]) { (self.tokens, self.mean) = (tokens, mean) }
}

/// What was said, passage by passage: added once a turn is finished, found by its words, forgotten for good. The twin of
/// `edgesink/memory/archive.py`, and the files are the same.
///
/// Owns the rows of the database; how large it may grow is in `ArchiveBound.swift`. Vectors are stored as they come;
/// `Packs.swift` reads their means. Belongs to one task or actor.
public final class Archive {
    public static let mostBytes = 256 << 20  // of the file, where nothing else is asked for
    static let fewestBytes = 1 << 20

    public let file: URL
    public let mostBytes: Int  // how large the file may grow
    private let database: Database

    /// The archive in a file, made if there is none and `make` allows it.
    ///
    /// Throws `badMemory`, `damagedMemory` and `badPlace` as `ArchiveFile.open`, `badOption` for too few bytes.
    public convenience init(_ file: URL, mostBytes: Int = Archive.mostBytes, make: Bool = true) throws {
        try self.init(file, mostBytes: mostBytes, make: make, wait: ArchiveFile.busyWait)
    }

    init(_ file: URL, mostBytes: Int = Archive.mostBytes, make: Bool = true, wait: Duration) throws {
        guard mostBytes >= Self.fewestBytes else {
            throw EdgesinkError(
                .badOption, "a memory of \(mostBytes) bytes", expected: "\(Self.fewestBytes) or more")
        }
        (self.file, self.mostBytes) = (file, mostBytes)
        database = try ArchiveFile.open(file, make: make, wait: wait)
    }

    /// Leave one whole file behind.
    public func close() { database.close() }

    /// What SQLite refuses in `body` is an error that names the file.
    func reading<Result>(_ body: (Database) throws -> Result) throws -> Result {
        try ArchiveFile.naming(file) { try body(database) }
    }

    /// All of it or nothing.
    func writing<Result>(_ body: (Database) throws -> Result) throws -> Result {
        try reading { database in try database.write { try body(database) } }
    }

    /// Of the file, those that are free for what comes next left out.
    public var bytes: Int {
        get throws {
            try reading { database in
                let pages = try database.int("PRAGMA page_count")
                return try (pages - database.int("PRAGMA freelist_count")) * database.int("PRAGMA page_size")
            }
        }
    }

    /// Passages in it.
    public var count: Int { get throws { try reading { try $0.int("SELECT count(*) FROM passage") } } }

    // MARK: - Streams

    /// A new stream, of whose tokens `prefix` are the first; returns its number.
    public func beginStream(fingerprint: String, prefix: [Int] = []) throws -> Int {
        try writing { try Self.newStream($0, fingerprint, prefix) }
    }

    /// The newest stream, taken up again at `position`, and its first ids; one of another bundle is left alone.
    ///
    /// What it had said behind that position is in no stream any more: the session was saved before.
    public func resumeStream(fingerprint: String, position: Int) throws -> (stream: Int, prefix: [Int]) {
        try writing { database in
            let query = "SELECT id, fingerprint, prefix FROM stream ORDER BY id DESC LIMIT 1"
            guard let row = try database.run(query).first, case .int(let stream) = row[0],
                row[1] == .text(fingerprint)
            else { return (try Self.newStream(database, fingerprint, []), []) }
            let prefix = try Self.prefix(row[2])
            try database.run(
                "UPDATE passage SET first = NULL, last = NULL WHERE stream = ? AND last > ?",
                [.int(stream), .int(position)])
            return (stream, prefix)
        }
    }

    private static func newStream(_ database: Database, _ fingerprint: String, _ prefix: [Int]) throws -> Int {
        try database.run(
            "INSERT INTO stream (fingerprint, began, prefix) VALUES (?, ?, ?)",
            [.text(fingerprint), .real(Date().timeIntervalSince1970), .text(JSON.ints(prefix).text)])
        return database.lastRow
    }

    /// The first ids of a stream, as the database has them.
    private static func prefix(_ value: SQLValue) throws -> [Int] {
        guard case .text(let text) = value, let items = try? JSON.parse(text.utf8).array else {
            throw SQLError.damage("the first ids of a stream are no ids")
        }
        let ids = items.compactMap(\.int).filter { $0 >= 0 }
        guard ids.count == items.count else { throw SQLError.damage("the first ids of a stream are no ids") }
        return ids
    }

    // MARK: - Keeping

    /// Keep what was said in one turn, all of it or nothing; returns its numbers.
    ///
    /// `space`: the name of the calibration that made the vectors.
    @discardableResult
    public func add(
        stream: Int, role: Role, _ passages: [NewPassage], space: String = "",
        said: Double = Date().timeIntervalSince1970
    ) throws -> [Int] {
        let ids = try writing { database in
            let ids = try passages.map { passage in
                try database.run(
                    "INSERT INTO passage (\(Self.columns)) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        .int(stream), .int(passage.first), .int(passage.last), .text(role.rawValue), .real(said),
                        .int(passage.isStanding ? 1 : 0), .text(passage.text),
                    ])
                let id = database.lastRow
                if let vectors = passage.vectors, !vectors.tokens.isEmpty {
                    try Self.add(vectors, of: id, to: space, database)
                }
                return id
            }
            try Packs.pack(database)
            return ids
        }
        try keepBound()
        return ids
    }

    private static func add(_ vectors: PackedVectors, of id: Int, to space: String, _ database: Database) throws {
        try database.run("INSERT OR IGNORE INTO space (name) VALUES (?)", [.text(space)])
        let number = try database.int("SELECT id FROM space WHERE name = ?", [.text(space)])
        try database.run(
            "INSERT INTO vectors VALUES (?, ?, ?, ?)",
            [.int(id), .int(number), .blob(Data(vectors.tokens)), .blob(Data(vectors.mean))])
    }

    // MARK: - Looking

    /// Those of the passages that there are, by number.
    public func get(_ ids: [Int]) throws -> [Int: Passage] {
        var found: [Int: Passage] = [:]
        for start in stride(from: 0, to: ids.count, by: 200) {
            let some = ids[start..<min(start + 200, ids.count)]
            let query = "WHERE id IN (\(Self.marks(some.count)))"
            for passage in try passages(query, some.map { .int($0) }) { found[passage.id] = passage }
        }
        return found
    }

    /// The last passages, newest first; `before` leaves out that number and what was said after it.
    public func newest(_ count: Int, before: Int? = nil) throws -> [Passage] {
        try passages("WHERE id < ? ORDER BY id DESC LIMIT ?", [.int(before ?? 1 << 62), .int(count)])
    }

    /// Whether there is anything that the stream does not see: it sees its tokens from that position on.
    public func hasUnseen(stream: Int, seenFrom: Int) throws -> Bool {
        let query = "SELECT 1 FROM passage WHERE stream != ? OR first IS NULL OR first < ? LIMIT 1"
        return try reading { try !$0.run(query, [.int(stream), .int(seenFrom)]).isEmpty }
    }

    /// The standing instructions, oldest first.
    public func standing() throws -> [Passage] { try passages("WHERE standing ORDER BY id") }

    /// Calls `body` with every passage, oldest first.
    public func export(_ body: (Passage) throws -> Void) throws {
        var last = 0
        while true {
            let some = try passages("WHERE id > ? ORDER BY id LIMIT 500", [.int(last)])
            guard let newest = some.last else { return }
            for passage in some { try body(passage) }
            last = newest.id
        }
    }

    /// The passages that belong to a message by its words, the best first; whatever a stream sees.
    public func search(_ message: String, count: Int = 3) throws -> [Found] {
        try Search(archive: self, stream: 0, seenFrom: 0, count: count).search(message)
    }

    private static let columns = "id, stream, first, last, role, said, standing, text"

    static func marks(_ count: Int) -> String { Array(repeating: "?", count: count).joined(separator: ",") }

    private func passages(_ query: String, _ values: [SQLValue] = []) throws -> [Passage] {
        try reading { try $0.run("SELECT \(Self.columns) FROM passage \(query)", values).map(Passage.init) }
    }

    // MARK: - Forgetting

    /// Remove passages so that the file has nothing left of them; returns how many there were.
    ///
    /// The pages that held them are overwritten. What the disk itself keeps of an older version of a page (a flash
    /// chip's spare blocks, a snapshot, a backup) is out of reach.
    @discardableResult
    public func forget(_ ids: [Int]) throws -> Int {
        let there = try get(ids).keys.sorted()
        try writing { try Self.delete($0, there) }
        if !there.isEmpty { try wipe() }
        return there.count
    }

    /// Remove every passage and what is known of streams, but the one that is talked in; returns how many.
    @discardableResult
    public func forgetAll() throws -> Int {
        let count = try writing { database in
            let ids = try database.run("SELECT id FROM passage").compactMap { row -> Int? in
                if case .int(let id) = row[0] { id } else { nil }
            }
            try Self.delete(database, ids)
            try database.run("DELETE FROM pack")
            try database.run("DELETE FROM stream WHERE id < (SELECT max(id) FROM stream)")
            return ids.count
        }
        try wipe()
        try reading { database in
            try database.run("VACUUM")
            try database.run("PRAGMA wal_checkpoint(TRUNCATE)")
        }
        return count
    }

    /// Reads the whole file; `damagedMemory` if something in it is damaged.
    public func check() throws { try ArchiveFile.checkPages(file, database) }

    /// The words of what is gone out of the index, and old pages out of the log.
    private func wipe() throws {
        try reading { database in
            try database.run("INSERT INTO word (word) VALUES ('optimize')")
            try database.run("PRAGMA wal_checkpoint(TRUNCATE)")
        }
    }

    /// Remove passages, their words and their vectors.
    static func delete(_ database: Database, _ ids: [Int]) throws {
        try deleteVectors(database, ids)
        for id in ids { try database.run("DELETE FROM passage WHERE id = ?", [.int(id)]) }
    }

    static func deleteVectors(_ database: Database, _ ids: [Int]) throws {
        for id in ids { try database.run("DELETE FROM vectors WHERE passage = ?", [.int(id)]) }
        try Packs.drop(ids, database)
    }
}

extension Passage {
    /// A row of the table; damage where it is none.
    fileprivate init(_ row: [SQLValue]) throws {
        func place(_ value: SQLValue) throws -> Int? {
            switch value {
            case .null: nil
            case .int(let place): place
            default: throw SQLError.damage("the place of a passage is no number")
            }
        }
        guard case .int(let id) = row[0], case .int(let stream) = row[1], case .text(let spelled) = row[4],
            let role = Role(rawValue: spelled), case .real(let said) = row[5], case .int(let standing) = row[6],
            case .text(let text) = row[7]
        else { throw SQLError.damage("a passage has values of other types") }
        self.init(
            id: id, stream: stream, first: try place(row[2]), last: try place(row[3]), role: role, said: said,
            isStanding: standing != 0, text: text)
    }
}

extension Data {
    /// The bytes of small numbers.
    init(_ numbers: [Int8]) { self = numbers.withUnsafeBytes { Data($0) } }
}
