/// How large an archive may grow: what goes first are the vectors of the oldest passages while vectors take more than
/// half of it, then the oldest passages themselves; standing instructions stay.
extension Archive {
    /// Of the bytes that are freed beyond what is needed, so that not every turn frees some.
    private static let slack = 0.05

    /// Free what is too much.
    func keepBound() throws {
        let excess = try bytes - mostBytes
        if excess > 0 { try makeRoom(excess + Int(Double(mostBytes) * Self.slack)) }
    }

    /// Free about so many bytes.
    private func makeRoom(_ wanted: Int) throws {
        let droppedVectors = try writing { database in
            let vectors = try database.int("SELECT coalesce(sum(length(tokens) + length(mean)), 0) FROM vectors")
            if vectors > max(wanted, mostBytes / 2) {
                let query = "SELECT passage, length(tokens) + length(mean) FROM vectors ORDER BY passage"
                try Self.deleteVectors(database, Self.first(wanted, of: query, database))
                return true
            }
            let query =
                "SELECT id, length(text) * 2 + 100 + coalesce((SELECT length(tokens) + length(mean) FROM vectors "
                + "WHERE passage = id), 0) FROM passage WHERE NOT standing ORDER BY id"
            try Self.delete(database, Self.first(wanted, of: query, database))
            return false
        }
        if !droppedVectors {
            _ = try reading { try $0.run("INSERT INTO word (word, rank) VALUES ('merge', 500)") }
        }
    }

    /// Of what a query lists, (number, bytes) in the order in which it goes, as many as make `wanted` bytes free.
    private static func first(_ wanted: Int, of query: String, _ database: Database) throws -> [Int] {
        var (ids, wanted) = ([Int](), wanted)
        try database.run(query) { row in
            guard wanted > 0 else { return false }
            guard case .int(let id) = row[0], case .int(let size) = row[1] else { throw SQLError.damage("no size") }
            ids.append(id)
            wanted -= size
            return true
        }
        return ids
    }
}
