import Foundation

/// The mean vectors of some passages.
struct Means: Equatable {
    var passages: [Int]  // [p], their numbers
    var vectors: [Int8]  // [p, d], of any length

    /// d.
    var width: Int { vectors.count / max(passages.count, 1) }
}

/// The coarse half of searching by vectors: one mean vector for each passage. The twin of `edgesink/memory/packs.py`.
///
/// Mean vectors of new passages lie with their other vectors; those of every `size` passages are put into one blob, so
/// that all of them are read in a few milliseconds and nothing of them stays in memory.
enum Packs {
    static let size = 512  // passages

    /// Put the mean vectors of new passages into a pack for each space, if there are enough of them.
    static func pack(_ database: Database) throws {
        let new = try database.run(
            "SELECT passage, space, mean FROM vectors WHERE passage > ? ORDER BY passage", [.int(packed(database))])
        guard new.count >= size else { return }
        var spaces: [Int: [[SQLValue]]] = [:]
        for row in new {
            guard case .int(let space) = row[1] else { throw SQLError.damage("a space is no number") }
            spaces[space, default: []].append([row[0], row[2]])
        }
        for (space, rows) in spaces.sorted(by: { $0.key < $1.key }) {
            let means = try means(rows)
            try database.run(
                "INSERT INTO pack VALUES (?, ?, ?, ?)",
                [.int(means.passages.last), .int(space), .blob(bytes(means.passages)), .blob(Data(means.vectors))])
        }
    }

    /// Calls `body` with all mean vectors of a space, oldest first.
    static func read(_ space: Int, _ database: Database, _ body: (Means) throws -> Void) throws {
        let query = "SELECT id, passages, means FROM pack WHERE space = ? ORDER BY id"
        try database.run(query, [.int(space)]) { row in
            try body(pack(row))
            return true
        }
        let new = try database.run(
            "SELECT passage, mean FROM vectors WHERE passage > ? AND space = ? ORDER BY passage",
            [.int(packed(database)), .int(space)])
        if !new.isEmpty { try body(means(new)) }
    }

    /// Take passages out of the packs that have them.
    static func drop(_ ids: [Int], _ database: Database) throws {
        guard let least = ids.min() else { return }
        let gone = Set(ids)
        let rows = try database.run("SELECT id, passages, means FROM pack WHERE id >= ? ORDER BY id", [.int(least)])
        for row in rows {
            let pack = try pack(row)
            let stays = pack.passages.indices.filter { !gone.contains(pack.passages[$0]) }
            if stays.count == pack.passages.count { continue }
            if stays.isEmpty {
                try database.run("DELETE FROM pack WHERE id = ?", [row[0]])
                continue
            }
            let width = pack.width
            let vectors = stays.flatMap { pack.vectors[($0 * width)..<(($0 + 1) * width)] }
            try database.run(
                "UPDATE pack SET passages = ?, means = ? WHERE id = ?",
                [.blob(bytes(stays.map { pack.passages[$0] })), .blob(Data(vectors)), row[0]])
        }
    }

    /// The last passage whose mean is in a pack; 0 for none.
    private static func packed(_ database: Database) throws -> Int {
        try database.int("SELECT coalesce(max(id), 0) FROM pack")
    }

    /// The vectors of a blob of the database, `width` numbers each; damage where it has none such.
    static func eightBits(_ value: SQLValue, _ what: String, width: Int?) throws -> [Int8] {
        guard case .blob(let data) = value, !data.isEmpty else { throw SQLError.damage("\(what) is no vector") }
        if let width, data.count % width != 0 {
            throw SQLError.damage("\(what) has \(data.count) numbers, which are not of \(width)")
        }
        return data.map { Int8(bitPattern: $0) }
    }

    /// Rows (passage, mean) as one.
    private static func means(_ rows: [[SQLValue]]) throws -> Means {
        var made = Means(passages: [], vectors: [])
        for row in rows {
            guard case .int(let passage) = row[0] else { throw SQLError.damage("a passage's number is none") }
            let mean = try eightBits(row[1], "a mean", width: nil)
            if !made.passages.isEmpty, mean.count != made.width {
                throw SQLError.damage("a mean has \(mean.count) numbers, which are not of \(made.width)")
            }
            made.passages.append(passage)
            made.vectors += mean
        }
        return made
    }

    /// What a row (id, passages, means) has.
    private static func pack(_ row: [SQLValue]) throws -> Means {
        guard case .int(let id) = row[0] else { throw SQLError.damage("a pack's number is none") }
        guard case .blob(let data) = row[1], !data.isEmpty, data.count % 8 == 0 else {
            throw SQLError.damage("pack \(id) has no passages")
        }
        let passages = data.withUnsafeBytes { bytes in
            stride(from: 0, to: bytes.count, by: 8).map {
                Int(Int64(littleEndian: bytes.loadUnaligned(fromByteOffset: $0, as: Int64.self)))
            }
        }
        let vectors = try eightBits(row[2], "pack \(id)", width: nil)
        guard vectors.count % passages.count == 0, vectors.count >= passages.count else {
            throw SQLError.damage("pack \(id) has \(vectors.count) numbers for \(passages.count) passages")
        }
        return Means(passages: passages, vectors: vectors)
    }

    /// int64, the low byte first.
    private static func bytes(_ numbers: [Int]) -> Data {
        numbers.map { Int64($0).littleEndian }.withUnsafeBytes { Data($0) }
    }
}
