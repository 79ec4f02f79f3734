import CSQLite
import Foundation

/// A value in a database.
enum SQLValue: Hashable {
    case null
    case int(Int)
    case real(Double)
    case text(String)
    case blob(Data)

    /// A whole number, or null.
    static func int(_ value: Int?) -> SQLValue { value.map { .int($0) } ?? .null }
}

/// What SQLite refuses, or what was found in a database that cannot be there.
struct SQLError: Error {
    enum Cause { case diskIsFull, isBusy, cannotBeRead, isDamaged, isClosed }

    let cause: Cause
    let message: String  // one line

    static func damage(_ message: String) -> SQLError { SQLError(cause: .isDamaged, message: message) }
}

/// A connection to a SQLite database. Owns statements and values; knows no table.
final class Database {
    private var handle: OpaquePointer?

    /// Opens a file; nothing of it is read yet. `wait`: how long another process may be writing.
    init(_ path: String, wait: Duration) throws {
        let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX
        let code = sqlite3_open_v2(path, &handle, flags, nil)
        guard code == SQLITE_OK else {
            defer { close() }
            throw refused(code)
        }
        sqlite3_busy_timeout(handle, Int32(wait / .milliseconds(1)))
    }

    deinit { close() }

    /// The last connection that is closed leaves one whole file behind.
    func close() {
        sqlite3_close_v2(handle)
        handle = nil
    }

    /// All rows of one statement.
    @discardableResult
    func run(_ sql: String, _ values: [SQLValue] = []) throws -> [[SQLValue]] {
        var rows: [[SQLValue]] = []
        try run(sql, values) {
            rows.append($0)
            return true
        }
        return rows
    }

    /// The rows of one statement one by one, until `body` returns false.
    func run(_ sql: String, _ values: [SQLValue] = [], _ body: ([SQLValue]) throws -> Bool) throws {
        guard let handle else { throw SQLError(cause: .isClosed, message: "it was closed") }
        var statement: OpaquePointer?
        defer { sqlite3_finalize(statement) }
        try check(sqlite3_prepare_v2(handle, sql, -1, &statement, nil))
        for (place, value) in values.enumerated() { try check(Self.bind(value, to: statement, Int32(place + 1))) }
        while true {
            let code = sqlite3_step(statement)
            if code == SQLITE_DONE { return }
            guard code == SQLITE_ROW else { throw refused(code) }
            let columns = 0..<sqlite3_column_count(statement)
            guard try body(columns.map({ try Self.value(statement, $0) })) else { return }
        }
    }

    /// Several statements without values, one after the other.
    func runAll(_ sql: String) throws { try check(sqlite3_exec(handle, sql, nil, nil, nil)) }

    /// The whole number that a statement gives.
    func int(_ sql: String, _ values: [SQLValue] = []) throws -> Int {
        guard case .int(let number)? = try run(sql, values).first?.first else { throw SQLError.damage("no number") }
        return number
    }

    /// The number of the row that was inserted last.
    var lastRow: Int { Int(sqlite3_last_insert_rowid(handle)) }

    /// All of what `body` writes, or nothing.
    func write<Result>(_ body: () throws -> Result) throws -> Result {
        try run("BEGIN IMMEDIATE")
        do {
            let result = try body()
            try run("COMMIT")
            return result
        } catch {
            _ = try? run("ROLLBACK")
            throw error
        }
    }

    private func check(_ code: Int32) throws { if code != SQLITE_OK { throw refused(code) } }

    private func refused(_ code: Int32) -> SQLError {
        let said = handle.map { String(cString: sqlite3_errmsg($0)) } ?? String(cString: sqlite3_errstr(code))
        let cause: SQLError.Cause =
            switch code & 0xFF {
            case SQLITE_FULL: .diskIsFull
            case SQLITE_BUSY, SQLITE_LOCKED: .isBusy
            // A phone that is locked refuses its files, and a file that cannot be read need not be damaged.
            case SQLITE_READONLY, SQLITE_CANTOPEN, SQLITE_PERM, SQLITE_AUTH, SQLITE_IOERR, SQLITE_NOMEM: .cannotBeRead
            default: .isDamaged
            }
        return SQLError(cause: cause, message: String(said.prefix { $0 != "\n" }.prefix(300)))
    }

    private static func bind(_ value: SQLValue, to statement: OpaquePointer?, _ place: Int32) -> Int32 {
        let copied = unsafeBitCast(-1, to: sqlite3_destructor_type.self)  // SQLITE_TRANSIENT
        switch value {
        case .null: return sqlite3_bind_null(statement, place)
        case .int(let number): return sqlite3_bind_int64(statement, place, Int64(number))
        case .real(let number): return sqlite3_bind_double(statement, place, number)
        case .text(let text):
            return (Array(text.utf8) + [0]).withUnsafeBytes {
                sqlite3_bind_text64(
                    statement, place, $0.baseAddress?.assumingMemoryBound(to: CChar.self), UInt64($0.count - 1), copied,
                    UInt8(SQLITE_UTF8))
            }
        case .blob(let data):
            if data.isEmpty { return sqlite3_bind_zeroblob(statement, place, 0) }
            return data.withUnsafeBytes {
                sqlite3_bind_blob64(statement, place, $0.baseAddress, UInt64(data.count), copied)
            }
        }
    }

    private static func value(_ statement: OpaquePointer?, _ column: Int32) throws -> SQLValue {
        func bytes(_ start: UnsafeRawPointer?) -> UnsafeRawBufferPointer {
            UnsafeRawBufferPointer(start: start, count: Int(sqlite3_column_bytes(statement, column)))
        }
        switch sqlite3_column_type(statement, column) {
        case SQLITE_NULL: return .null
        case SQLITE_INTEGER: return .int(Int(sqlite3_column_int64(statement, column)))
        case SQLITE_FLOAT: return .real(sqlite3_column_double(statement, column))
        case SQLITE_BLOB: return .blob(Data(bytes(sqlite3_column_blob(statement, column))))
        default:
            guard let text = String(validating: bytes(sqlite3_column_text(statement, column)), as: UTF8.self) else {
                throw SQLError.damage("a text that is not UTF-8")
            }
            return .text(text)
        }
    }
}
