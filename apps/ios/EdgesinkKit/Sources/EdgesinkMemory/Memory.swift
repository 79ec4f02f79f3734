import EdgesinkCore
import Foundation

/// What came back for one message, and why.
public struct Recall: Equatable, Sendable {
    public let message: String
    public let found: [Found]
    public let wishes: [Passage]  // standing instructions that came along
    public let searchMilliseconds: Double
    public let quoteMilliseconds: Double
}

/// A memory of a conversation beyond its window, in a file: what is told is kept, and what belongs to a message comes
/// back, quoted in it. The twin of `edgesink/memory/memory.py` with the way "quoted".
///
/// Owns the order of things around an answer, and that no trouble with the archive ends a conversation. What is kept is
/// `Archive`'s, what is found is `Search`'s, and the words around it are `Quotation`'s.
public actor Memory: ConversationMemory {
    private static let quoted = 2  // passages that are quoted at most

    private let archive: Archive
    private let calibration: Calibration?
    private let budget: Int
    private var conversation: Conversation?
    private var stream: Int?  // its number in the archive; nil: none yet
    private var reached = 0  // position behind what was remembered last
    private var shown: [Int: Int] = [:]  // passages that were quoted, and where

    /// The last thing that came back; nil before.
    public private(set) var recalled: Recall?

    /// Whether it does nothing any more, because something went wrong.
    public private(set) var isOff = false

    /// What went wrong, or what became of a damaged file; "" if all is well.
    public private(set) var trouble = ""

    /// `file`: the archive, made if there is none; a damaged one is set aside and a new one is made. `mostBytes`: how
    /// large it may grow. `budget`: tokens of a message that quotations may take. `calibration`: how meanings are
    /// compared; nil: by words only.
    ///
    /// Throws `badMemory` where the file is of another program or a later version, `badPlace` where it cannot be read or
    /// written.
    public init(
        _ file: URL, mostBytes: Int = Archive.mostBytes, budget: Int = 160, calibration: Calibration? = nil
    ) throws {
        (self.budget, self.calibration) = (budget, calibration)
        do {
            archive = try Archive(file, mostBytes: mostBytes)
        } catch let error as EdgesinkError where error.kind == .damagedMemory {
            let aside = try ArchiveFile.setAside(file)
            trouble = "\(error.found); it is now \(aside.lastPathComponent), and a new memory was begun"
            archive = try Archive(file, mostBytes: mostBytes)
        }
    }

    /// Leave one whole file behind; the memory does nothing any more.
    public func close() { archive.close() }

    // MARK: - What a conversation asks

    public func around(_ message: String, in conversation: Conversation) async throws -> String {
        try await guarded(message) { try await prepare(message, conversation) }
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
            (isOff, trouble) = (true, "the memory is off: \(error)")
            return otherwise
        }
    }

    // MARK: - Before an answer

    /// The message as it is to be fed; what was found stands in it.
    private func prepare(_ message: String, _ conversation: Conversation) async throws -> String {
        try await attach(conversation)
        let written = try await bringBack(message, conversation)
        if stream == nil {
            let manifest = conversation.session.manifest
            let turn = try await conversation.nextTurn(written).turn
            let first = (manifest.prefix + turn).prefix(await conversation.session.status.ring.sinks)
            stream = try archive.beginStream(fingerprint: manifest.fingerprint, prefix: Array(first))
        }
        return written
    }

    /// Know the stream that is talked in: a new one, one that is taken up again, or the same as before.
    private func attach(_ conversation: Conversation) async throws {
        if self.conversation !== conversation { (self.conversation, stream, shown) = (conversation, nil, [:]) }
        let position = await conversation.session.position
        if position == 0 {
            (stream, shown) = (nil, [:])
        } else if stream == nil || position < reached {
            let fingerprint = conversation.session.manifest.fingerprint
            (stream, shown) = (try archive.resumeStream(fingerprint: fingerprint, position: position).stream, [:])
        }
        reached = position
    }

    /// Look for what belongs to a message, and put it around it.
    private func bringBack(_ message: String, _ conversation: Conversation) async throws -> String {
        let began = ContinuousClock.now
        let unfed = try await conversation.nextTurn(message)
        let seenFrom = max(0, unfed.end - (await conversation.session.status.ring.window))
        let stream = stream ?? 0
        guard try archive.hasUnseen(stream: stream, seenFrom: seenFrom) else { return message }
        var fed: AsFed?
        if let calibration { fed = try await Asking.ask(unfed, calibration, conversation) }
        let search = Search(archive: archive, stream: stream, seenFrom: seenFrom, count: Self.quoted)
        var found = try search.search(message, calibration, fed).filter {
            !$0.passage.isStanding && !isShown($0.passage, seenFrom)
        }
        if let best = found.first, let other = try Context.neighbour(of: best.passage, in: archive),
            !isShown(other, seenFrom)
        {
            found = Context.with(other, found)
        }
        let wishes = try archive.standing().filter {
            ($0.stream != stream || ($0.first ?? -1) < seenFrom) && !isShown($0, seenFrom)
        }
        let searched = ContinuousClock.now
        let (kept, passages) = Quotation.fitting(
            wishes: wishes, found: found.map(\.passage), budget: budget, conversation.tokenizer)
        guard !kept.isEmpty || !passages.isEmpty else { return message }
        let written = Quotation.text(of: message, wishes: kept, found: passages)
        // A model whose turns cannot hold the quotation gets the message as it is.
        guard (try? await conversation.nextTurn(written)) != nil else { return message }
        let position = await conversation.session.position
        for passage in kept + passages { shown[passage.id] = position }
        recalled = Recall(
            message: message, found: found.filter { passages.contains($0.passage) }, wishes: kept,
            searchMilliseconds: (searched - began).milliseconds,
            quoteMilliseconds: (ContinuousClock.now - searched).milliseconds)
        return written
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
