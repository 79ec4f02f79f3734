/// What a manifest's fields must be of one another, in the words of `edgesink/manifest.py`.
extension Manifest {
    static let again = "export the model again"
    static let largestBytes = 1 << 44  // of files, weights or states; more is a damaged manifest

    func check() throws {
        if ![4, 8].contains(vocabularyBits) { throw fault("vocabulary_bits \(vocabularyBits)", "4 or 8") }
        let (way, ways) = (kvWrite?.rawValue, target.kvWrites.map(\.rawValue))
        if ways.isEmpty != (way == nil) {
            let shown = way.map { "'\($0)'" } ?? "None"
            let expected = ways.isEmpty ? "None" : ways.joined(separator: " or ")
            throw fault("kv_write \(shown) for \(target.rawValue)", expected)
        }
        if let read = stepWeightBytes, !(0...Self.largestBytes).contains(read) {
            throw fault("step_weight_bytes \(read)", "0 to \(Self.largestBytes)")
        }
        if let rows = logitRows, rows < 2 || rows > stream.chunk {
            throw fault("logit_rows \(rows)", "2 to the chunk, \(stream.chunk)")
        }
        if !(1...largestSize).contains(vocab) { throw fault("a vocabulary of \(vocab)", "1 to \(largestSize)") }
        let ids = eosIds + [bosId ?? 0] + prefix + (turns?.ids ?? [])
        if let outside = ids.first(where: { !(0..<vocab).contains($0) }) {
            throw fault("token id \(outside)", "0 to \(vocab - 1)")
        }
        if (turns == nil) == (noTurns == nil) {
            throw fault("turns, or no reason why there are none", "one of the two")
        }
        for view in views { try view.check(in: stream) }
        try checkStates()
    }

    /// Every view and every part has states, and each state fits the ring of its view.
    private func checkStates() throws {
        if states.isEmpty || parts < 1 {
            throw fault("\(states.count) states in \(parts) parts", "one or more of both")
        }
        for state in states { try check(state) }
        let used = [("view", Set(states.map(\.view)), views.count), ("part", Set(states.map(\.part)), parts)]
        for (what, places, count) in used where places.count < count {
            throw fault("states of \(places.count) of \(count) \(what)s", "some of every \(what)")
        }
        if Set(states.map { "\($0.part) \($0.name)" }).count < states.count {
            throw fault("two states of one name", "names that differ")
        }
        if Set(states.map(\.dtype)).count > 1 { throw fault("states of two types", "one type") }
        try checkLayers()
        let known = Set(states.map(\.name))
        if let odd = float32InKernels?.first(where: { !known.contains($0) }) {
            throw fault("float32_in_kernels names \(odd)", "a state")
        }
    }

    /// Where a state says which layers it has, all do, and every layer is in one of them.
    private func checkLayers() throws {
        if states.allSatisfy({ $0.layers == nil }) { return }
        let said = states.flatMap { $0.layers ?? [] }.sorted()
        if target != .coreml || said != Array(0..<said.count) {
            throw fault("states of the layers \(said)", "every layer once, in Core ML's states")
        }
        for state in states {
            let count = state.layers?.count ?? 0
            if 2 * count != state.shape[0] {
                throw fault(
                    "state \(state.name) has \(count) layers and shape \(state.shape)", "keys and values of each")
            }
        }
    }

    private func check(_ state: StateSpec) throws {
        guard views.indices.contains(state.view), (0..<parts).contains(state.part) else {
            throw fault("state \(state.name) of view \(state.view), part \(state.part)", "one that there is")
        }
        let multiple = target.rowMultiple
        let rows = (try stream.ring(of: views[state.view]).rows + multiple - 1) / multiple * multiple
        if state.shape[2] != rows {
            throw fault("state \(state.name) has \(state.shape[2]) rows", "\(rows), its ring's")
        }
        let isWhole = target == .coreml ? state.shape[0] % 2 == 0 : state.shape[0] == 1
        let first = states.first { $0.view == state.view }
        if !isWhole || state.shape.dropFirst() != first?.shape.dropFirst() {
            throw fault("state \(state.name) has shape \(state.shape)", "that of its view")
        }
    }

    private func fault(_ found: String, _ expected: String) -> EdgesinkError {
        EdgesinkError(.badBundle, found, expected: expected, remedy: Self.again)
    }
}
