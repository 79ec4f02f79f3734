/// A regular expression of the kind that tokenizers split text with, matched by backtracking.
///
/// Not Foundation's, whose character tables are older than those of `tokenizers` and which is slower (docs/ios.md). The
/// subset is what the supported families use (see `PatternParser`); anything else is refused by name.
struct Pattern: Sendable {
    enum Step: Sendable {
        case one(ScalarSet)
        case repeated(ScalarSet, atLeast: Int, atMost: Int, Greed)
        case split(Int, Int)  // try the first, then the second
        case jump(Int)
        case look(ahead: Int, negative: Bool, then: Int)  // the body ends with `accept`
        case start
        case end
        case accept
    }

    enum Greed: Sendable { case greedy, lazy, possessive }

    let steps: [Step]

    init(_ source: String) throws {
        var parser = PatternParser(source)
        steps = try parser.compiled()
    }

    /// A pattern that matches `text` itself.
    init(literal text: String) {
        steps = text.unicodeScalars.map { .one(ScalarSet(ranges: [$0.value...$0.value]).sealed()) } + [.accept]
    }

    /// Non-overlapping matches from left to right, empty ones left out.
    func matches(in text: ArraySlice<UInt32>) -> [Range<Int>] {
        var found: [Range<Int>] = []
        text.withUnsafeBufferPointer { scalars in
            let matcher = Matcher(steps: steps, text: scalars)
            var at = 0
            while at < scalars.count {
                if let end = matcher.run(0, at), end > at {
                    found.append((at + text.startIndex)..<(end + text.startIndex))
                    at = end
                } else {
                    at += 1
                }
            }
        }
        return found
    }
}

private struct Matcher {
    let steps: [Pattern.Step]
    let text: UnsafeBufferPointer<UInt32>

    /// Where a match of the steps from `step` on, begun at `at`, ends; nil if there is none.
    func run(_ step: Int, _ at: Int) -> Int? {
        var (step, at) = (step, at)
        while true {
            switch steps[step] {
            case .one(let set):
                guard at < text.count, set.contains(text[at]) else { return nil }
                (step, at) = (step + 1, at + 1)
            case .repeated(let set, let least, let most, let greed):
                let longest = count(set, at, greed == .lazy ? least : most)
                guard longest >= least else { return nil }
                switch greed {
                case .possessive: (step, at) = (step + 1, at + longest)
                case .greedy: return shrinking(step + 1, from: at + longest, to: at + least)
                case .lazy: return growing(set, step + 1, from: at + least, atMost: most - least)
                }
            case .split(let first, let second):
                if let end = run(first, at) { return end }
                step = second
            case .jump(let target): step = target
            case .look(let body, let negative, let next):
                guard (run(body, at) == nil) == negative else { return nil }
                step = next
            case .start:
                guard at == 0 else { return nil }
                step += 1
            case .end:
                guard at == text.count else { return nil }
                step += 1
            case .accept: return at
            }
        }
    }

    private func count(_ set: ScalarSet, _ at: Int, _ most: Int) -> Int {
        var end = at
        while end < text.count, end - at < most, set.contains(text[end]) { end += 1 }
        return end - at
    }

    private func shrinking(_ next: Int, from longest: Int, to shortest: Int) -> Int? {
        for at in stride(from: longest, through: shortest, by: -1) {
            if let end = run(next, at) { return end }
        }
        return nil
    }

    private func growing(_ set: ScalarSet, _ next: Int, from shortest: Int, atMost more: Int) -> Int? {
        var at = shortest
        while true {
            if let end = run(next, at) { return end }
            guard at - shortest < more, at < text.count, set.contains(text[at]) else { return nil }
            at += 1
        }
    }
}
