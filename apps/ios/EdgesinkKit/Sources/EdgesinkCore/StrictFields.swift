/// The fields of one JSON object, read strictly: unknown, missing and ill-typed ones are refused in the words that
/// `edgesink/manifest.py` uses.
struct StrictFields {
    private let fields: [String: JSON]
    private let place: String

    /// `mayLack`: names of fields that came later; where they have no value they are not there at all.
    init(_ json: JSON, _ place: String, _ names: [String], mayLack: [String] = []) throws {
        guard let object = json.object else {
            throw EdgesinkError(
                .badBundle, "\(place) is \(json.shown)", expected: "an object", remedy: Manifest.again)
        }
        self.place = place
        fields = Dictionary(object.map { ($0.key, $0.value) }, uniquingKeysWith: { $1 })
        if let unknown = fields.keys.filter({ !names.contains($0) && !mayLack.contains($0) }).min() {
            throw EdgesinkError(
                .badBundle, "\(place) has an unknown field '\(unknown)'", remedy: "update edgesink or export again")
        }
        if let missing = names.filter({ fields[$0] == nil }).min() {
            throw EdgesinkError(.badBundle, "\(place) lacks '\(missing)'", remedy: Manifest.again)
        }
        if let empty = mayLack.filter({ fields[$0]?.isNull == true }).min() {
            throw EdgesinkError(
                .badBundle, "\(place): \(empty) is null", expected: "a value, or no such field", remedy: Manifest.again)
        }
    }

    func place(_ name: String) -> String { "\(place): \(name)" }

    func json(_ name: String) -> JSON { fields[name] ?? .null }

    /// What `read` makes of the field; nil where it is null.
    func optional<Value>(_ name: String, _ read: (String) throws -> Value) throws -> Value? {
        json(name).isNull ? nil : try read(name)
    }

    func int(_ name: String) throws -> Int { try Self.int(json(name), place(name)) }

    func double(_ name: String) throws -> Double {
        guard let value = json(name).double else { throw misfit(json(name), place(name), "float") }
        return value
    }

    func bool(_ name: String) throws -> Bool {
        guard let value = json(name).bool else { throw misfit(json(name), place(name), "bool") }
        return value
    }

    func string(_ name: String) throws -> String { try Self.string(json(name), place(name)) }

    func choice<Value: RawRepresentable<String>>(_ name: String) throws -> Value {
        guard let text = json(name).string, let value = Value(rawValue: text) else {
            throw misfit(json(name), place(name), "Literal")
        }
        return value
    }

    func list<Value>(_ name: String, _ read: (JSON, String) throws -> Value) throws -> [Value] {
        guard let items = json(name).array else { throw misfit(json(name), place(name), "tuple") }
        return try items.enumerated().map { try read($1, "\(place(name))[\($0)]") }
    }

    /// Holds an object whose fields are not read.
    func requireObject(_ name: String) throws {
        if json(name).object == nil { throw misfit(json(name), place(name), "dict") }
    }

    func strings(_ name: String) throws -> [String: String] {
        guard let object = json(name).object else { throw misfit(json(name), place(name), "dict") }
        let pairs = try object.map { ($0.key, try Self.string($0.value, "\(place(name)).\($0.key)")) }
        return Dictionary(pairs, uniquingKeysWith: { $1 })
    }

    static func int(_ json: JSON, _ place: String) throws -> Int {
        guard let value = json.int else { throw misfit(json, place, "int") }
        return value
    }

    static func string(_ json: JSON, _ place: String) throws -> String {
        guard let value = json.string else { throw misfit(json, place, "str") }
        return value
    }
}

private func misfit(_ json: JSON, _ place: String, _ expected: String) -> EdgesinkError {
    EdgesinkError(.badBundle, "\(place) is \(json.shown)", expected: expected, remedy: Manifest.again)
}

/// Runs the checks of a value read from the bundle: what is wrong there is the bundle's fault, not an option's.
func asBundleFault<Value>(_ place: String, _ make: () throws -> Value) throws -> Value {
    do {
        return try make()
    } catch let error as EdgesinkError where error.kind != .badBundle {
        throw EdgesinkError(
            .badBundle, "\(place): \(error.found)", expected: error.expected, remedy: Manifest.again)
    }
}
