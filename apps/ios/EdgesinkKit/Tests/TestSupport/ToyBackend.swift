import EdgesinkCore
import Foundation

/// A model without weights that remembers exactly what its rings remember: one id a slot, for each view. The next id is a
/// hash of what the newest token sees, so one wrong slot, position or sink changes everything after it.
package actor ToyBackend: ModelBackend {
    private let manifest: Manifest
    private var slots: [[Int]]  // of each view
    package private(set) var largestChunk = 0
    package private(set) var runs = 0
    package private(set) var wasLoaded = false
    private var broken: (position: Int, value: Float)?  // where a logit is not finite, and what it is
    private var failure: Int?  // the position of a run that fails halfway
    package var delay: Duration?  // a run's length, for tests of what happens meanwhile

    package init(manifest: Manifest, delay: Duration? = nil) {
        (self.manifest, self.delay) = (manifest, delay)
        slots = manifest.views.indices.map { view in
            let rows = manifest.states.first { $0.view == view }?.shape[2] ?? 0
            return Array(repeating: -1, count: rows)
        }
    }

    package func feed(_ ids: [Int], position: Int, sinks: Int) async throws -> [Float] {
        if let delay { try await Task.sleep(for: delay) }
        largestChunk = max(largestChunk, ids.count)
        let newest = position + ids.count - 1
        var seen: [Int] = []
        for (view, ring) in try manifest.rings(sinks: sinks).enumerated() {
            for (offset, id) in ids.enumerated() { slots[view][ring.slot(position + offset)] = id }
            seen += ring.visible(newest).map { slots[view][ring.slot($0)] }
        }
        runs += 1
        if failure == position { throw Failed() }
        var logits = Self.logits(after: seen, manifest.vocab)
        if let broken, broken.position == newest { logits[7] = broken.value }
        return logits
    }

    package func breakAt(position: Int, with value: Float) { broken = (position, value) }

    package struct Failed: Error {}

    package func failAt(position: Int) { failure = position }

    package func state() -> [StateTensor] { manifest.states.map { Self.tensor($0, slots: slots[$0.view]) } }

    package func state(_ name: String) -> StateTensor? {
        manifest.states.first { $0.name == name }.map { Self.tensor($0, slots: slots[$0.view]) }
    }

    /// A state of as many rows as there are ids: keys say them, values tell them apart, and a row of zeros has none.
    package static func tensor(_ state: StateSpec, slots: [Int]) -> StateTensor {
        let (heads, size) = (state.shape[1], state.shape[3])
        let shape = [state.shape[0], heads, slots.count, size]
        var numbers: [Float] = []
        for block in 0..<shape[0] {
            let (isKey, layer) = kind(ofBlock: block, state)
            for place in stride(from: 0, to: heads * size, by: size) {
                for id in slots {
                    numbers += (place..<(place + size)).map {
                        id < 0 ? 0 : isKey ? Float(id + 1) : value(of: id, layer: layer, place: $0)
                    }
                }
            }
        }
        return StateTensor(
            name: state.name, dtype: .float32, shape: shape, bytes: numbers.withUnsafeBytes { Data($0) })
    }

    /// Of Core ML's states, keys and values in turn.
    private static func kind(ofBlock block: Int, _ state: StateSpec) -> (isKey: Bool, layer: Int) {
        if state.shape[0] > 1 { return (block % 2 == 0, block / 2) }
        return (state.name.hasPrefix("key"), Int(state.name.suffix(1)) ?? 0)
    }

    /// Number `place` of the value row of an id.
    package static func value(of id: Int, layer: Int, place: Int) -> Float {
        var random = SplitMix64(seed: UInt64(truncatingIfNeeded: (id * 4 + layer) * 1000 + place))
        return Float(random.uniform()) * 2 - 1
    }

    /// Throws where states of one view do not tell of the same ids.
    package func load(_ state: [StateTensor]) throws {
        for view in slots.indices {
            guard let keys = state.first(where: { $0.name == manifest.states.first { $0.view == view }?.name }) else {
                continue
            }
            let row = keys.shape[3]
            slots[view] = keys.bytes.withUnsafeBytes { bytes in
                slots[view].indices.map { Int(bytes.loadUnaligned(fromByteOffset: 4 * row * $0, as: Float.self)) - 1 }
            }
        }
        guard state == self.state() else { throw EdgesinkError(.badSession, "states that do not fit together") }
        wasLoaded = true
    }

    /// The id that follows what is seen, as logits; those of all others depend on it as well.
    package static func logits(after seen: [Int], _ vocab: Int) -> [Float] {
        let hash = seen.reduce(UInt64(seen.count)) {
            ($0 &* 6_364_136_223_846_793_005) &+ UInt64(bitPattern: Int64($1)) &+ 1
        }
        var random = SplitMix64(seed: hash)
        var logits = (0..<vocab).map { _ in 8 * Float(random.uniform()) }
        logits[Int((hash >> 33) % UInt64(vocab))] = 9
        return logits
    }

    /// The same told the slow way: from the whole list of tokens.
    package static func next(after tokens: [Int], _ rings: Ring..., vocab: Int = 256) -> Int {
        Sampler.argmax(logits(after: rings.flatMap { $0.visible(tokens.count - 1).map { tokens[$0] } }, vocab))
    }
}

/// A manifest for toys: 2 layers, 4 sinks, chunks of 8.
package func toyManifest(
    eos: [Int] = [], vocab: Int = 256, sinkToken: Int? = nil, window: Int = 28, maxSinks: Int = 16,
    chunk: Int = 8
) throws -> Manifest {
    let text = try Golden.manifest("good").text
    let changed = text.replacing("\"eos_ids\": [0, 2]", with: "\"eos_ids\": \(eos)")
        .replacing("\"vocab\": 256", with: "\"vocab\": \(vocab)")
        .replacing("\"window\": 28", with: "\"window\": \(window)")
        .replacing("\"max_sinks\": 16", with: "\"max_sinks\": \(maxSinks)")
        .replacing("\"capacity\": 32", with: "\"capacity\": \(window + 4)")
        .replacing("2, 39, 16]", with: "2, \(window + chunk + 3), 16]")
        .replacing("\"chunk\": 8", with: "\"chunk\": \(chunk)")
        .replacing("\"sink_token_id\": null", with: "\"sink_token_id\": \(sinkToken.map { "\($0)" } ?? "null")")
    return try Manifest(json: Data(changed.utf8))
}

/// A tokenizer whose ids are the 256 bytes.
package func byteTokenizer() throws -> Tokenizer {
    let printable = Array(0x21...0x7E) + Array(0xA1...0xAC) + Array(0xAE...0xFF)
    var next: UInt32 = 0x100
    let tokens = (0..<256).map { byte -> String in
        if printable.contains(byte) { return "\(Unicode.Scalar(UInt8(byte)))" }
        defer { next += 1 }
        return Unicode.Scalar(next).map { "\($0)" } ?? ""
    }
    let vocab = tokens.enumerated().map { "\(JSON.spelled($1)): \($0)" }.joined(separator: ", ")
    let json = """
        {"added_tokens": [], "normalizer": null, "post_processor": null, "decoder": {"type": "ByteLevel"},
         "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
         "model": {"type": "BPE", "vocab": {\(vocab)}, "merges": []}}
        """
    return try Tokenizer(json: Data(json.utf8))
}
