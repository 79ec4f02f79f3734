import EdgesinkCore
import Foundation

/// The file of an archive: one SQLite database, opened so that it is private, whole after a crash, and really forgets.
/// The twin of `edgesink/memory/archive_file.py`: both read and write the same file.
///
/// Owns the schema, the checks of a file that is opened, and what becomes of a damaged one. Knows nothing of what is
/// kept.
enum ArchiveFile {
    static let applicationId = 0x6564_6773  // "edgs", in the header of the file
    static let version = 1
    static let busyWait = Duration.seconds(5)  // how long another process may be writing

    private static let settings = [
        "journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "foreign_keys = ON",
        "cache_size = -1024",  // KiB of pages that the database keeps in memory
        "temp_store = MEMORY", "journal_size_limit = 1048576", "wal_autocheckpoint = 256",
    ]

    /// A connection to the archive at `file`, made first if there is none and `make` allows it.
    ///
    /// Throws `badMemory` for no archive, or one of a later version; `damagedMemory` for a damaged one; `badPlace` where
    /// nothing can be read or written. The file is as it was then.
    static func open(_ file: URL, make: Bool = true, wait: Duration = busyWait) throws -> Database {
        try checkPlace(file, make: make)
        return try naming(file) {
            let database = try Database(file.path, wait: wait)
            do {
                try checkHeader(file, database)
                for setting in settings { try database.run("PRAGMA \(setting)") }
                if try database.int("SELECT count(*) FROM sqlite_master") == 0 { try fill(database) }
                try checkTables(database)
            } catch {
                database.close()
                throw error
            }
            return database
        }
    }

    /// What SQLite says in `body`, as an error that names the file.
    static func naming<Result>(_ file: URL, _ body: () throws -> Result) throws -> Result {
        do {
            return try body()
        } catch let error as SQLError {
            throw named(error, file)
        }
    }

    private static func named(_ error: SQLError, _ file: URL) -> EdgesinkError {
        let path = file.path
        return switch error.cause {
        case .diskIsFull: EdgesinkError(.noSpace, "\(path): the disk is full", remedy: "free some disk")
        case .isBusy:
            EdgesinkError(
                .badMemory, "\(path) is being written by another process", remedy: "try again, or end that one")
        case .cannotBeRead:
            EdgesinkError(
                .badPlace, "\(path): \(error.message)", expected: "a file that may be written",
                remedy: "choose another place")
        case .isClosed: EdgesinkError(.badMemory, "\(path) was closed", remedy: "open it again")
        case .isDamaged:
            EdgesinkError(
                .damagedMemory, "\(path) is damaged (\(error.message))",
                remedy: "restore a copy; a conversation would set it aside and begin a new one")
        }
    }

    /// Rename a damaged archive, so that a new one can be made in its place; returns where it is now.
    static func setAside(_ file: URL) throws -> URL {
        let files = FileManager.default
        func beside(_ ending: String) -> URL {
            file.deletingLastPathComponent().appending(path: file.lastPathComponent + ending)
        }
        var number = 1
        while files.fileExists(atPath: beside(".damaged-\(number)").path) { number += 1 }
        do {
            for suffix in ["", "-wal", "-shm"] where files.fileExists(atPath: beside(suffix).path) {
                // A new database must not be read with the log of the damaged one.
                try files.moveItem(at: beside(suffix), to: beside(".damaged-\(number)\(suffix)"))
            }
        } catch {
            throw EdgesinkError(
                .badPlace, "\(file.path): \(error.localizedDescription)", remedy: "choose another place")
        }
        return beside(".damaged-\(number)")
    }

    /// A file that only its owner may read, made empty where there was none.
    private static func checkPlace(_ file: URL, make: Bool) throws {
        let files = FileManager.default
        guard let facts = try? files.attributesOfItem(atPath: file.resolvingSymlinksInPath().path) else {
            guard make else {
                throw EdgesinkError(
                    .badMemory, "no memory at \(file.path)", expected: "a file that a conversation with a memory wrote")
            }
            guard files.createFile(atPath: file.path, contents: nil, attributes: [.posixPermissions: 0o600]) else {
                throw EdgesinkError(
                    .badPlace, "\(file.path) cannot be made", expected: "the name of a file in a folder that exists",
                    remedy: "choose another place")
            }
            return
        }
        guard facts[.type] as? FileAttributeType == .typeRegular else {
            throw EdgesinkError(
                .badPlace, "\(file.path) is no ordinary file", expected: "a memory, or a name that is free",
                remedy: "choose another place")
        }
    }

    /// `badMemory` unless it is an archive of this version, or empty; one that others may read becomes private.
    private static func checkHeader(_ file: URL, _ database: Database) throws {
        let application = try database.int("PRAGMA application_id")
        let version = try database.int("PRAGMA user_version")
        if application == 0, version == 0, try database.int("SELECT count(*) FROM sqlite_master") == 0 { return }
        guard application == applicationId else {
            throw EdgesinkError(
                .badMemory, "\(file.path) is a database of something else", expected: "a memory of edgesink",
                remedy: "choose another file")
        }
        guard version == Self.version else {
            throw EdgesinkError(
                .badMemory, "\(file.path) is a memory of version \(version)", expected: "version \(Self.version)",
                remedy: "update edgesink")
        }
        let files = FileManager.default
        let mode = try? files.attributesOfItem(atPath: file.resolvingSymlinksInPath().path)[.posixPermissions] as? Int
        if let mode, mode & 0o077 != 0 {
            do {
                try files.setAttributes([.posixPermissions: 0o600], ofItemAtPath: file.path)
            } catch {
                throw EdgesinkError(
                    .badPlace, "\(file.path) cannot be made private", remedy: "choose another place")
            }
        }
    }

    /// All tables or none: a process that is killed here leaves an empty file.
    private static func fill(_ database: Database) throws {
        try database.write {
            // Another process may have made it meanwhile.
            guard try database.int("SELECT count(*) FROM sqlite_master") == 0 else { return }
            try database.runAll(schema)
            try database.run("PRAGMA application_id = \(applicationId)")
            try database.run("PRAGMA user_version = \(version)")
        }
        try database.run("INSERT INTO word (word, rank) VALUES ('automerge', 4)")
    }

    /// Damage if a table is missing, or its pages do not hang together.
    private static func checkTables(_ database: Database) throws {
        let names = try database.run("SELECT name FROM sqlite_master WHERE type = 'table'").map { $0[0] }
        for name in ["pack", "passage", "space", "stream", "vectors", "word"] where !names.contains(.text(name)) {
            throw SQLError.damage("the table \(name) is missing")
        }
        try database.run("SELECT max(id), max(said) FROM passage")
        try database.run("SELECT rowid FROM word WHERE word MATCH 'memory' LIMIT 1")
    }

    /// Reads the whole file; `damagedMemory` if a page is damaged.
    static func checkPages(_ file: URL, _ database: Database) throws {
        try naming(file) {
            let found = try database.run("PRAGMA quick_check(1)").first?.first
            guard found == .text("ok") else {
                var said = "nothing was found"
                if case .text(let text)? = found { said = text.replacing("\n", with: " ") }
                throw SQLError.damage(said)
            }
            try database.run("INSERT INTO word (word) VALUES ('integrity-check')")
        }
    }

    static let schema = """
        CREATE TABLE stream (
            id INTEGER PRIMARY KEY,
            fingerprint TEXT NOT NULL,  -- of the bundle
            began REAL NOT NULL,        -- seconds since 1970
            prefix TEXT NOT NULL        -- its first ids, as JSON
        );
        CREATE TABLE passage (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            stream INTEGER NOT NULL REFERENCES stream,
            first INTEGER,              -- position of its first token in the stream; NULL: no stream has it any more
            last INTEGER,               -- behind its last token
            role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
            said REAL NOT NULL,         -- seconds since 1970
            standing INTEGER NOT NULL,  -- 1: an instruction that holds from now on
            text TEXT NOT NULL
        );
        CREATE INDEX passage_place ON passage (stream, first);
        CREATE INDEX passage_standing ON passage (id) WHERE standing;
        CREATE VIRTUAL TABLE word USING fts5 (text, content = 'passage', content_rowid = 'id', tokenize = 'porter unicode61');
        CREATE TRIGGER passage_added AFTER INSERT ON passage BEGIN
            INSERT INTO word (rowid, text) VALUES (new.id, new.text);
        END;
        CREATE TRIGGER passage_gone AFTER DELETE ON passage BEGIN
            INSERT INTO word (word, rowid, text) VALUES ('delete', old.id, old.text);
        END;
        CREATE TABLE space (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE   -- of the calibration that made the vectors
        );
        CREATE TABLE vectors (
            passage INTEGER PRIMARY KEY REFERENCES passage ON DELETE CASCADE,
            space INTEGER NOT NULL REFERENCES space,
            tokens BLOB NOT NULL,       -- int8 [n, d], a vector for every token that matters
            mean BLOB NOT NULL          -- int8 [d], their mean
        );
        CREATE TABLE pack (             -- the means of many passages in one place, to be read at once
            id INTEGER PRIMARY KEY,     -- the last of those passages
            space INTEGER NOT NULL REFERENCES space,
            passages BLOB NOT NULL,     -- int64 [p]
            means BLOB NOT NULL         -- int8 [p, d]
        );
        """
}
