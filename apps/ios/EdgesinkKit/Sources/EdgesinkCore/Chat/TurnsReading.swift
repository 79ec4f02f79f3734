/// Turns read from a manifest, and what they must be of one another, in the words of `edgesink/turns.py`.
extension Piece {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(json, place, ["kind", "text", "id", "trim"])
        kind = try fields.choice("kind")
        text = try fields.string("text")
        id = try fields.optional("id", fields.int)
        trim = try fields.choice("trim")
        let isSaid = kind == .system || kind == .user
        if (id == nil) == (kind == .token) || text.isEmpty != isSaid {
            let has = "\(id == nil ? "no" : "an") id and \(text.isEmpty ? "no" : "a") text"
            throw fault("a piece of kind \(kind.rawValue) with \(has)", "what its kind has")
        }
        if trim != .none, !isSaid {
            throw fault("a piece of kind \(kind.rawValue) that is trimmed", "a place for a message")
        }
        if kind == .date, let unknown = unknownDirective(text) {
            throw EdgesinkError(
                .badBundle, "a date with \(unknown)", expected: "another format", remedy: "update edgesink")
        }
    }
}

extension Script {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(json, place, ["first", "later"])
        first = try fields.list("first", Piece.init)
        later = try fields.list("later", Piece.init)
        for (name, pieces) in [("first", first), ("later", later)] where !pieces.contains(where: { $0.kind == .user }) {
            throw fault("a \(name) turn without the user's message", "a place for it")
        }
    }
}

extension Trigger {
    init(_ json: JSON, _ place: String) throws {
        let fields = try StrictFields(json, place, ["role", "text"])
        role = try fields.choice("role")
        text = try fields.string("text")
        if text.isEmpty { throw fault("a trigger without text", "some") }
    }
}

extension Turns {
    init(_ json: JSON, _ place: String) throws {
        let names = [
            "without_system", "with_system", "refusal", "blank_system", "end", "controls", "triggers", "notes",
        ]
        let fields = try StrictFields(json, place, names)
        withoutSystem = try fields.optional("without_system") { try Script(fields.json($0), fields.place($0)) }
        withSystem = try fields.optional("with_system") { try Script(fields.json($0), fields.place($0)) }
        refusal = try fields.string("refusal")
        blankSystem = try fields.bool("blank_system")
        end = try fields.list("end", Piece.init)
        controls = try fields.list("controls", StrictFields.int)
        triggers = try fields.list("triggers", Trigger.init)
        notes = try fields.list("notes", StrictFields.string)
        try check()
    }

    private func check() throws {
        if withoutSystem == nil, withSystem == nil {
            throw fault("turns neither with nor without a system prompt", "one of the two")
        }
        if (withoutSystem == nil || withSystem == nil) == refusal.isEmpty {
            throw fault("turns with the refusal \(JSON.string(refusal).shown)", "one where a script is missing")
        }
        if let plain = withoutSystem, (plain.first + plain.later).contains(where: { $0.kind == .system }) {
            throw fault("a system prompt in turns without one", "none")
        }
        if let script = withSystem, !script.first.contains(where: { $0.kind == .system }) {
            throw fault("turns that leave the system prompt out", "a place for it")
        }
    }
}

private func fault(_ found: String, _ expected: String) -> EdgesinkError {
    EdgesinkError(.badBundle, found, expected: expected, remedy: Manifest.again)
}
