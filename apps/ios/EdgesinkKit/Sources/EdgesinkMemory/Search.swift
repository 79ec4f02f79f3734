import EdgesinkCore

/// How a passage was found.
public enum Way: String, Sendable { case words, meaning }

/// A passage that belongs to a message.
public struct Found: Equatable, Sendable {
    public let passage: Passage
    public let score: Double  // 0 … 1
    public let way: Way
}

/// What the stream made of a message.
struct AsFed {
    let words: [Scalars]  // of its last tokens, for each the word that it is part of
    let rows: Rows  // their value rows of the calibration's layer
    let gateRows: Rows  // of its gate's layer
}

/// What of all that was said belongs to a message: by its words if they are rare ones, else by what it means. The twin
/// of `edgesink/memory/search.py`.
///
/// Owns the choice: where the gate of the calibration does not take the message for one that asks, nothing comes back but
/// what holds all that is rare in a question; words speak only where the best passage holds most of what is rare in the
/// message, else meanings do, and of the few best by meaning the model itself judges; of passages about the same thing the
/// newest is right.
struct Search {
    static let held = 0.6  // of what is rare in a message, that the best passage must hold for words to speak
    static let whole = 0.99  // of what is rare in a question, that a passage holds which comes back without the gate
    static let fewestWords = 2  // that say something, in a message for which words speak where no gate lets it through
    static let same = 0.5  // of the words of the shorter of two passages, that both about the same thing have
    static let assistant = 0.8  // what a score counts if the model said it
    static let wide = 24  // passages that are looked at
    static let near = 0.8  // of the best score, that another passage must have to come along
    static let judged = 4  // passages that the model judges
    static let wider = 0.75  // of the least likeness, for passages that are judged
    static let ofLikeness = 4.0  // what likeness counts, where a nat a token that a message gains counts 1
    static let ofGate = 2.0  // what counts how much surer the gate is than it must be that something told is asked for
    static let surest = 0.4  // how much surer it counts at most
    static let usual = 0.3  // nats a token that any passage makes a message likelier by: only what is beyond counts
    static let leastSum = 0.7  // of all three, likeness being counted from the least
    static let nearSum = 0.2  // what the best of likeness and gain may be ahead by for another passage to come along

    /// Of the best score: a newer passage about the same thing takes its place. What changed is told in other words.
    static func close(_ way: Way) -> Double { way == .words ? 0.6 : 0.85 }

    let archive: Archive
    let stream: Int  // that is talked in
    let seenFrom: Int  // position from which on it still sees its tokens: what is there is not brought back
    let count: Int  // most that are wanted

    /// The passages that belong to a message, the best first; none if none does.
    ///
    /// `calibration`, `fed`: of the model, and what it made of the message; nil searches by words only.
    func search(_ message: String, _ calibration: Calibration? = nil, _ fed: AsFed? = nil) throws -> [Found] {
        Array(near(try candidates(message, calibration, fed)).prefix(count))
    }

    /// The same where the model judges of what is near in meaning; `judge`: how much likelier a passage makes the message.
    func search(
        _ message: String, _ calibration: Calibration, _ fed: AsFed, by judge: (String) async throws -> Double,
        isolation: isolated (any Actor)? = #isolation
    ) async throws -> [Found] {
        let found = try candidates(message, calibration, fed, wider: Self.wider)
        guard found.first?.way == .meaning else { return Array(near(found).prefix(count)) }
        let (least, surer) = (calibration.numbers.least, calibration.surer(fed.gateRows))
        return Array(try await chosen(found.prefix(Self.judged), by: judge, least, surer).prefix(count))
    }

    /// Passages that may belong to a message and are not seen any more, the best first, all found in one way.
    ///
    /// `wider`: of the least likeness, that is enough.
    private func candidates(
        _ message: String, _ calibration: Calibration?, _ fed: AsFed?, wider: Double = 1
    ) throws -> [Found] {
        let (seen, rarity, byWords) = try archive.reading { database in
            let query = "SELECT id FROM passage WHERE stream = ? AND first >= ?"
            let seen = try Set(database.run(query, [.int(stream), .int(seenFrom)]).map { $0[0] })
            let rarity = try Words.rarity(of: Words.content(of: Scalars(message)), database)
            return (seen, rarity, try Words.search(rarity, count: Self.wide, database))
        }
        let about = Self.stems(message)
        func unseen(_ found: [Found]) -> [Found] {
            Self.newest(found, about: about).filter { !seen.contains(.int($0.passage.id)) }
        }
        let isAsked = calibration != nil && fed != nil
        let found = try told(byWords, .words).filter { $0.score >= Self.held }
        if let calibration, let fed, !calibration.letsThrough(fed.gateRows) {
            let isPlain = rarity.words.count >= Self.fewestWords && Self.isQuestion(Scalars(message))
            return unseen(found.filter { isPlain && $0.score >= Self.whole })
        }
        if !found.isEmpty, isAsked || rarity.words.count >= Self.fewestWords { return unseen(found) }
        guard let calibration, let fed else { return [] }
        let byMeaning = try archive.reading { database in
            try Likeness.search(
                calibration.vectors(fed.rows), weights: Spoken.weights(of: fed.words, rarity),
                space: calibration.name, count: Self.wide, database)
        }
        return unseen(try told(byMeaning, .meaning).filter { $0.score >= wider * calibration.numbers.least })
    }

    /// Without those that fit clearly worse than the best: a small model takes its answer from any of them.
    private func near(_ found: [Found]) -> [Found] {
        let least = Self.near * (found.first?.score ?? 0)
        return found.filter { $0.score >= least }
    }

    /// Those that the model takes to belong to the message as well, the best by both first.
    ///
    /// They are judged in the order of their likeness, until none that is left could come back without making the message
    /// likelier than any passage does. The surer the gate is of the message, the less they must have.
    private func chosen(
        _ found: some Collection<Found>, by judge: (String) async throws -> Double, _ least: Double, _ surer: Double,
        isolation: isolated (any Actor)? = #isolation
    ) async throws -> [Found] {
        var judged: [(one: Found, sum: Double)] = []
        var best = -Double.infinity
        for one in found {
            let likeness = Self.ofLikeness * (one.score - least)
            if !judged.isEmpty, best - Self.nearSum >= likeness { break }
            let sum = likeness + (try await judge(one.passage.text)) - Self.usual
            judged.append((one, sum))
            best = max(best, sum)
        }
        let enough = max(Self.leastSum - Self.ofGate * min(surer, Self.surest), best - Self.nearSum)
        return judged.sorted { $0.sum > $1.sum }.filter { $0.sum >= enough }.map(\.one)
    }

    /// The passages found, but those that only ask; what the model said counts less.
    private func told(_ hits: [Hit], _ way: Way) throws -> [Found] {
        let passages = try archive.get(hits.map(\.passage))
        return hits.compactMap { hit in
            guard let passage = passages[hit.passage], !Self.isQuestion(Scalars(passage.text)) else { return nil }
            let score = hit.score * (passage.role == .assistant ? Self.assistant : 1)
            return Found(passage: passage, score: score, way: way)
        }.sorted { ($1.score, $1.passage.id) < ($0.score, $0.passage.id) }
    }

    /// Whether a passage tells nothing: its sentences all ask.
    static func isQuestion(_ text: Scalars) -> Bool {
        var rest = text[...]
        while let last = rest.last, "\"'”’)» \n".unicodeScalars.contains(last) { rest.removeLast() }
        guard let last = rest.last, last == "?" || last == "\u{FF1F}" else { return false }
        let before = text.dropLast()
        let tells = zip(before, before.dropFirst()).contains { ($0 == "." || $0 == "!") && $1 == " " }
        return !tells && !before.contains("\u{3002}")
    }

    /// In the place of each passage the newest about the same thing that fits nearly as well; the others are over.
    ///
    /// `about`: what the message is about. A newer passage that lacks a word of it is about something else: the blue
    /// clock where the red one was asked for.
    private static func newest(_ found: [Found], about: Set<Scalars>) -> [Found] {
        var (chosen, waiting) = ([Found](), found[...])
        while let best = waiting.popFirst() {
            let least = close(best.way) * best.score
            let rivals = waiting.filter { $0.score >= least && isSame(best.passage, $0.passage, about) }
            waiting.removeAll { one in rivals.contains { $0.passage.id == one.passage.id } }
            chosen.append(rivals.reduce(best) { $1.passage.id > $0.passage.id ? $1 : $0 })
        }
        return chosen
    }

    /// The words of a text that say what it is about, their beginnings.
    private static func stems(_ text: String) -> Set<Scalars> {
        Set(Words.content(of: Scalars(text)).map { Array($0.prefix(6)) })
    }

    /// Whether two passages of one speaker are about the same thing: they share most of their words, and those that are
    /// asked about.
    private static func isSame(_ one: Passage, _ other: Passage, _ about: Set<Scalars>) -> Bool {
        let (mine, theirs) = (stems(one.text), stems(other.text))
        guard mine.intersection(about).isSubset(of: theirs) else { return false }
        let shared = Double(mine.intersection(theirs).count)
        return one.role == other.role && shared >= max(1, same * Double(min(mine.count, theirs.count)))
    }
}
