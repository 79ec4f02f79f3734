import EdgesinkCore
import Foundation

/// What came back for one message, and why.
public struct Recall: Equatable, Sendable {
    public let message: String
    public let found: [Found]
    public let wishes: [Passage]  // standing instructions that came along
    public let way: RecallWay
    public let searchMilliseconds: Double
    public let bringMilliseconds: Double
}

/// How passages come back: quoted in the message, or in the pinned rows for one answer.
public enum RecallWay: String, CaseIterable, Sendable { case quoted, pinned }

/// A memory of a conversation beyond its window, in a file: what is told is kept, and what belongs to a message comes
/// back, quoted in it or in the pinned rows. The twin of `edgesink/memory/memory.py`.
///
/// Owns the order of things around an answer, that pinned rows are put back, and that no trouble with the archive ends a
/// conversation. What is kept is `Archive`'s, what is found is `Search`'s, the words around it are `Quotation`'s, and what
/// is pinned is `PinnedPassages`'.
public actor Memory: ConversationMemory {
    private static let quoted = 2  // passages that are quoted at most

    private let archive: Archive
    private let calibration: Calibration?
    private let budget: Int
    private let way: RecallWay
    private let judges: Bool
    private var conversation: Conversation?
    private var stream: Int?  // its number in the archive; nil: none yet
    private var reached = 0  // position behind what was remembered last
    private var shown: [Int: Int] = [:]  // passages that were quoted, and where
    private var first: [Int] = []  // ids that the stream's pinned rows always begin with
    private var ownSinks = 0  // pinned rows without those for what is brought back
    private var reserved = 0  // and with them
    private var lent: Lent?
    private var returning: Task<Void, Never>?

    /// Pinned rows that stand elsewhere for the time of one answer.
    private struct Lent {
        let session: StreamSession
        let epoch: Int  // of the stream that they are of
        let rows: PinnedRows
    }

    /// The last thing that came back; nil before.
    public private(set) var recalled: Recall?

    /// Whether it does nothing any more, because something went wrong.
    public private(set) var isOff = false

    /// What went wrong, or what became of a damaged file; "" if all is well.
    public private(set) var trouble = ""

    /// `file`: the archive, made if there is none; a damaged one is set aside and a new one is made. `way`: how passages
    /// come back; `.pinned` keeps up to 128 pinned rows of a new stream for it, and quotes where the bundle cannot pin so
    /// many, or the stream began without. `mostBytes`: how large the file may grow. `budget`: tokens of a message that
    /// quotations may take. `calibration`: how meanings are compared; nil: by words only. `judge`: whether the model judges
    /// what is near in meaning, so that less comes back that does not matter; a message is then read once more, token by
    /// token, and again with each passage that is judged.
    ///
    /// Throws `badMemory` where the file is of another program or a later version, `badPlace` where it cannot be read or
    /// written.
    public init(
        _ file: URL, way: RecallWay = .quoted, mostBytes: Int = Archive.mostBytes, budget: Int = 160,
        calibration: Calibration? = nil, judge: Bool = true
    ) throws {
        (self.way, self.budget, self.calibration, judges) = (way, budget, calibration, judge)
        do {
            archive = try Archive(file, mostBytes: mostBytes)
        } catch let error as EdgesinkError where error.kind == .damagedMemory {
            let aside = try ArchiveFile.setAside(file)
            trouble = "\(error.found); it is now \(aside.lastPathComponent), and a new memory was begun"
            archive = try Archive(file, mostBytes: mostBytes)
        }
    }

    /// Leave one whole file behind; the memory does nothing any more.
    public func close() async {
        await putBack()
        archive.close()
    }

    // MARK: - What a conversation asks

    public func around(_ message: String, in conversation: Conversation) async throws -> String {
        await putBack()
        do {
            return try await guarded(message) { try await prepare(message, conversation) }
        } catch {
            await putBack()
            throw error
        }
    }

    /// What stood in the pinned rows, bit for bit; nothing if nothing was exchanged. Who calls meanwhile waits as well.
    public func putBack() async {
        if let lent {
            self.lent = nil
            returning = Task {  // to the end, even where the task that waits is cancelled
                do {
                    guard await lent.session.epoch == lent.epoch else { return }  // that stream is over
                    try await lent.session.putPinnedRows(lent.rows)
                } catch {
                    switchOff(error)
                }
            }
        }
        await returning?.value
    }

    public func remember(_ exchange: Exchange, of conversation: Conversation) async {
        try? await guarded(()) { try await keep(exchange, conversation) }
    }

    public func streamChanged() { (stream, shown) = (nil, [:]) }

    /// What goes wrong with the memory ends the memory, and not the conversation.
    private func guarded<Result: Sendable>(
        _ otherwise: Result, _ work: () async throws -> Result
    ) async throws -> Result {
        if isOff { return otherwise }
        do {
            return try await work()
        } catch let error as EdgesinkError {
            await putBack()
            switchOff(error)
            return otherwise
        }
    }

    private func switchOff(_ error: any Error) { (isOff, trouble) = (true, "the memory is off: \(error)") }

    // MARK: - Before an answer

    /// The message as it is to be fed; what was found stands in it, or in the pinned rows.
    private func prepare(_ message: String, _ conversation: Conversation) async throws -> String {
        try await attach(conversation)
        let written = try await bringBack(message, conversation)
        if stream == nil {
            let manifest = conversation.session.manifest
            let unfed = try await conversation.nextTurn(written)
            first = Array((manifest.prefix + unfed.answer + unfed.turn).prefix(ownSinks))
            stream = try archive.beginStream(fingerprint: manifest.fingerprint, prefix: first)
        }
        return written
    }

    /// Know the stream that is talked in: a new one, one that is taken up again, or the same as before.
    private func attach(_ conversation: Conversation) async throws {
        if self.conversation !== conversation { (self.conversation, stream, shown) = (conversation, nil, [:]) }
        let session = conversation.session
        let position = await session.position
        if position == 0 {
            (stream, shown) = (nil, [:])
            try await reserve(session)
        } else if stream == nil || position < reached {
            let known = try archive.resumeStream(fingerprint: session.manifest.fingerprint, position: position)
            (stream, first, shown) = (known.stream, known.prefix, [:])
        }
        reached = position
    }

    /// Rows for what is brought back, behind those that are pinned anyway.
    private func reserve(_ session: StreamSession) async throws {
        let sinks = await session.status.ring.sinks
        if sinks != reserved { ownSinks = sinks }
        let most = session.manifest.stream.maxSinks
        reserved = way == .pinned ? PinnedPassages.sinks(own: ownSinks, most: most) : ownSinks
        if sinks != reserved { try await session.reset(sinks: reserved) }
    }

    /// Look for what belongs to a message, and bring it back; the message as it is to be fed.
    private func bringBack(_ message: String, _ conversation: Conversation) async throws -> String {
        let began = ContinuousClock.now
        let session = conversation.session
        let unfed = try await conversation.nextTurn(message)
        let seenFrom = max(0, unfed.end - (await session.status.ring.window))
        guard try archive.hasUnseen(stream: stream ?? 0, seenFrom: seenFrom) else { return message }
        let canPin = await canPin(session)
        let search = Search(
            archive: archive, stream: stream ?? 0, seenFrom: seenFrom,
            count: canPin ? PinnedPassages.count : Self.quoted)
        let found = try withNeighbour(await find(message, unfed, search, conversation), seenFrom)
        var wishes = try archive.standing().filter { $0.stream != stream || ($0.first ?? -1) < seenFrom }
        let searched = ContinuousClock.now
        var written = message
        var way = RecallWay.pinned
        var brought = canPin ? try await pin(wishes, found.map(\.passage), conversation) : []
        if brought.isEmpty {
            way = .quoted
            wishes = wishes.filter { !isShown($0, seenFrom) }
            (written, brought) = try await quote(message, wishes, found.map(\.passage), conversation)
        }
        guard !brought.isEmpty else { return message }
        recalled = Recall(
            message: message, found: found.filter { brought.contains($0.passage) },
            wishes: wishes.filter(brought.contains), way: way,
            searchMilliseconds: (searched - began).milliseconds,
            bringMilliseconds: (ContinuousClock.now - searched).milliseconds)
        return written
    }

    /// The passages that belong to a message, the best first.
    private func find(
        _ message: String, _ unfed: UnfedTurn, _ search: Search, _ conversation: Conversation
    ) async throws -> [Found] {
        guard let calibration else { return try search.search(message) }
        return try await Asking.asking(unfed, calibration, conversation, judges: judges) { fed, judge in
            guard let judge else { return try search.search(message, calibration, fed) }
            return try await search.search(message, calibration, fed, by: judge.gain)
        }
    }

    /// Those that were found and are not seen, with what the best of them needs of its neighbours.
    private func withNeighbour(_ found: [Found], _ seenFrom: Int) throws -> [Found] {
        let found = found.filter { !$0.passage.isStanding && !isShown($0.passage, seenFrom) }
        guard let best = found.first, let other = try Context.neighbour(of: best.passage, in: archive),
            !isShown(other, seenFrom)
        else { return found }
        return Context.with(other, found)
    }

    private func canPin(_ session: StreamSession) async -> Bool {
        let (sinks, position) = (await session.status.ring.sinks, await session.position)
        let hasRoom = sinks - first.count >= PinnedPassages.fewestRows && first.starts(with: session.manifest.prefix)
        return way == .pinned && stream != nil && hasRoom && position >= sinks
    }

    /// Exchange the pinned rows; what is pinned now, nothing where none of it fits.
    private func pin(_ wishes: [Passage], _ found: [Passage], _ conversation: Conversation) async throws -> [Passage] {
        let session = conversation.session
        let (ids, brought) = try PinnedPassages.ids(
            first: first, wishes: wishes, found: found, sinks: await session.status.ring.sinks,
            conversation.ids(ofText:))
        if brought.isEmpty { return [] }
        let epoch = await session.epoch
        lent = Lent(session: session, epoch: epoch, rows: try await session.repin(ids))
        return brought
    }

    /// The message with quotations, and what is quoted: nothing where the model's turns cannot hold it.
    private func quote(
        _ message: String, _ wishes: [Passage], _ found: [Passage], _ conversation: Conversation
    ) async throws -> (written: String, brought: [Passage]) {
        let (wishes, found) = Quotation.fitting(
            wishes: wishes, found: found, budget: budget, conversation.tokenizer)
        guard !wishes.isEmpty || !found.isEmpty else { return (message, []) }
        let written = Quotation.text(of: message, wishes: wishes, found: found)
        guard (try? await conversation.nextTurn(written)) != nil else { return (message, []) }
        let position = await conversation.session.position
        for passage in wishes + found { shown[passage.id] = position }
        return (written, wishes + found)
    }

    private func isShown(_ passage: Passage, _ seenFrom: Int) -> Bool { shown[passage.id, default: -1] >= seenFrom }

    // MARK: - After it

    private func keep(_ exchange: Exchange, _ conversation: Conversation) async throws {
        guard self.conversation === conversation, let stream else { return }
        let (unfed, tokenizer) = (exchange.unfed, conversation.tokenizer)
        try await keep(
            .user, exchange.message, Spoken(unfed.message, tokenizer), from: unfed.messageStart, stream, conversation)
        let answer = Scalars(exchange.answer)
        if !answer.trimmed.isEmpty {
            let spoken = Spoken(tokenizer.encode(exchange.answer), tokenizer)
            try await keep(.assistant, exchange.answer, spoken, from: unfed.end, stream, conversation)
        }
        reached = await conversation.session.position
    }

    /// Cut a turn into passages and keep them; `spoken` are its tokens, the first of them at `start`.
    private func keep(
        _ role: Role, _ text: String, _ spoken: Spoken, from start: Int, _ stream: Int, _ conversation: Conversation
    ) async throws {
        var text = Scalars(Scalars(text).trimmed)
        let found = Quotation.place(of: text, in: spoken.text)  // what is quoted was kept when it was said
        let begin = found ?? 0
        let skipped = found.map(spoken.token) ?? 0
        if found == nil { text = spoken.text }
        var passages: [NewPassage] = []
        let fed = await conversation.session.position  // the end of an answer that was cut is not fed yet
        for piece in PassageCutter(text: text, ends: spoken.ends[skipped...].map { $0 - begin }).cut() {
            let said = Scalars(text[piece.start..<piece.end])
            let tokens = (skipped + piece.first)..<(skipped + piece.last)
            passages.append(
                NewPassage(
                    first: min(start + tokens.lowerBound, fed), last: min(start + tokens.upperBound, fed),
                    text: String(said),
                    isStanding: role == .user && Standing.isStanding(said),
                    vectors: try await vectors(spoken, start, tokens, conversation.session)))
        }
        if !passages.isEmpty {
            try archive.add(stream: stream, role: role, passages, space: calibration?.name ?? "")
        }
    }

    /// Those of the tokens that matter; nil where the stream does not hold their rows any more, or not yet.
    private func vectors(
        _ spoken: Spoken, _ start: Int, _ tokens: Range<Int>, _ session: StreamSession
    ) async throws -> PackedVectors? {
        guard let calibration else { return nil }
        let last = min(tokens.upperBound, await session.position - start)
        guard tokens.lowerBound < last else { return nil }
        let words = spoken.words()[tokens.lowerBound..<last]
        let matters = words.indices.filter { !words[$0].isEmpty }.map { $0 - tokens.lowerBound }
        if matters.isEmpty { return nil }
        do {
            let range = (start + tokens.lowerBound)..<(start + last)
            let rows = try await session.rows(layer: calibration.numbers.layer, of: range)
            return calibration.packed(rows.picked(matters))
        } catch let error as EdgesinkError where error.kind == .badOption {  // a turn longer than the window
            return nil
        }
    }

    // MARK: - For people

    /// Passages in it.
    public var count: Int { get throws { try archive.count } }

    /// The last passages, newest first; `before` leaves out that number and what was said after it.
    public func newest(_ count: Int, before: Int? = nil) throws -> [Passage] {
        try archive.newest(count, before: before)
    }

    /// Remove passages so that the file has nothing left of them; returns how many there were.
    @discardableResult
    public func forget(_ ids: [Int]) throws -> Int { try archive.forget(ids) }

    /// Remove every passage.
    @discardableResult
    public func forgetAll() throws -> Int { try archive.forgetAll() }
}

extension Duration {
    fileprivate var milliseconds: Double { self / .milliseconds(1) }
}
