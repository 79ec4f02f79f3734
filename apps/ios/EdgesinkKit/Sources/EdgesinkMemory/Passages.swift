/// A stretch of a text.
struct Cut: Equatable {
    let start: Int  // first scalar
    let end: Int  // behind the last
    let first: Int  // first token
    let last: Int  // behind the last
}

/// Cuts what was said into passages: sentences in groups that are long enough to stand alone and short enough to quote.
/// The twin of `edgesink/memory/passages.py`.
///
/// Owns where a text is cut. Knows no model: how many tokens a stretch of the text has is told by where each token ends.
struct PassageCutter {
    static let fewest = 8  // tokens: a shorter sentence takes the next one along
    static let most = 60  // tokens of a passage

    let text: Scalars
    let ends: [Int]  // for every token, how many scalars of the text there are up to its end; ascending

    /// The passages in order, white space around them left out; together they have every word.
    func cut() -> [Cut] {
        var passages: [Cut] = []
        var (start, end) = (0, 0)
        func close() {
            passages += trimmed(start, end)
            start = end
        }
        for stop in stops() {
            if end > start, tokens(start, stop) > Self.most { close() }
            end = stop
            if tokens(start, end) >= Self.fewest { close() }
        }
        close()
        return passages
    }

    /// Where the text may be cut: behind sentences, and in those that are too long behind clauses or words.
    private func stops() -> [Int] {
        var (stops, start) = ([Int](), 0)
        for stop in behind(Self.sentenceEnd, 0, text.count) {
            stops += shorter(start, stop, [Self.clauseEnd, Self.wordEnd])
            start = stop
        }
        return stops
    }

    /// The ends of parts of a sentence of at most `most` tokens each; one word may be longer.
    private func shorter(_ start: Int, _ stop: Int, _ separators: ArraySlice<Separator>) -> [Int] {
        guard tokens(start, stop) > Self.most, let separator = separators.first else { return [stop] }
        var (found, begin, reached) = ([Int](), start, start)
        for place in behind(separator, start, stop) {
            if tokens(begin, place) > Self.most, reached > begin {
                found.append(reached)
                begin = reached
            }
            if tokens(begin, place) > Self.most {
                found += shorter(begin, place, separators.dropFirst())
                begin = place
            }
            reached = place
        }
        if reached > begin { found.append(reached) }
        return found
    }

    /// The ends of the separators in a stretch, and the stretch's own.
    private func behind(_ separator: Separator, _ start: Int, _ stop: Int) -> [Int] {
        var (found, at) = ([Int](), start)
        while at < stop {
            guard let end = separator(text[at..<stop]) else {
                at += 1
                continue
            }
            if end < stop { found.append(end) }
            at = end
        }
        return found + [stop]
    }

    /// Tokens that end in a stretch of the text.
    private func tokens(_ start: Int, _ stop: Int) -> Int { ends.count(upTo: stop) - ends.count(upTo: start) }

    /// The stretch without white space around it, or nothing.
    private func trimmed(_ start: Int, _ end: Int) -> [Cut] {
        let said = text[start..<end].trimmed
        guard let end = said.isEmpty ? nil : said.endIndex else { return [] }
        let last = ends.count(upTo: end - 1) + 1  // the token that has the last scalar
        return [
            Cut(start: said.startIndex, end: end, first: ends.count(upTo: said.startIndex), last: min(last, ends.count))
        ]
    }

    // MARK: - Separators

    /// Where the separator that the stretch begins with ends; nil if it begins with none.
    private typealias Separator = (ArraySlice<Unicode.Scalar>) -> Int?

    private static let sentenceEnd: @Sendable (ArraySlice<Unicode.Scalar>) -> Int? = { stretch in
        let marks = stretch.drop { ".!?…".unicodeScalars.contains($0) }
        if marks.startIndex > stretch.startIndex {
            let rest = marks.drop { "\"'”’)]".unicodeScalars.contains($0) }
            return rest.first?.isSpace == true ? rest.startIndex : nil
        }
        let stops = stretch.drop { "。！？".unicodeScalars.contains($0) }
        if stops.startIndex > stretch.startIndex {
            return stops.drop { "」』）".unicodeScalars.contains($0) }.startIndex
        }
        let lines = stretch.drop { $0 == "\n" }
        return lines.startIndex > stretch.startIndex ? lines.startIndex : nil
    }

    private static let clauseEnd: @Sendable (ArraySlice<Unicode.Scalar>) -> Int? = { stretch in
        let rest = stretch.drop { ",;:、，；—".unicodeScalars.contains($0) }
        if rest.startIndex > stretch.startIndex, rest.first?.isSpace == true { return rest.startIndex }
        let wide = stretch.drop { "、，；".unicodeScalars.contains($0) }
        return wide.startIndex > stretch.startIndex ? wide.startIndex : nil
    }

    private static let wordEnd: @Sendable (ArraySlice<Unicode.Scalar>) -> Int? = { stretch in
        let rest = stretch.drop(while: \.isSpace)
        return rest.startIndex > stretch.startIndex ? rest.startIndex : nil
    }
}
