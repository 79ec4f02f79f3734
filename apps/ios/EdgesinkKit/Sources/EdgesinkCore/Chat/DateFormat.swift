import Foundation

private let days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
private let months = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]

/// `date` as Python's `strftime` writes it, with the directives that a template may use, in English whatever the device's
/// language is.
func formatted(_ date: Date, _ format: String) -> String {
    var calendar = Calendar(identifier: .gregorian)
    calendar.timeZone = .current
    let now = calendar.dateComponents([.year, .month, .day, .hour, .minute, .second, .weekday], from: date)
    return directives(format).map { $0.isDirective ? written($0.text, now) ?? $0.text : $0.text }.joined()
}

/// The first directive of a format that is not known here, as "%j".
func unknownDirective(_ format: String) -> String? {
    let now = DateComponents(year: 2000, month: 1, day: 1, hour: 0, minute: 0, second: 0, weekday: 1)
    return directives(format).first { $0.isDirective && written($0.text, now) == nil }?.text
}

private func written(_ directive: String, _ now: DateComponents) -> String? {
    let (month, day) = (months[(now.month ?? 1) - 1], days[((now.weekday ?? 1) + 5) % 7])
    let hour = now.hour ?? 0
    return switch directive.dropFirst() {
    case "%": "%"
    case "a": String(day.prefix(3))
    case "A": day
    case "b": String(month.prefix(3))
    case "B": month
    case "d": padded(now.day)
    case "-d": "\(now.day ?? 1)"
    case "H": padded(hour)
    case "I": padded((hour + 11) % 12 + 1)
    case "m": padded(now.month)
    case "-m": "\(now.month ?? 1)"
    case "M": padded(now.minute)
    case "p": hour < 12 ? "AM" : "PM"
    case "S": padded(now.second)
    case "y": padded((now.year ?? 0) % 100)
    case "Y": padded(now.year, 4)
    default: nil
    }
}

private func padded(_ number: Int?, _ width: Int = 2) -> String {
    let digits = "\(number ?? 0)"
    return String(repeating: "0", count: max(0, width - digits.count)) + digits
}

/// A format cut at its directives: a percent sign, perhaps a minus, and a letter.
private func directives(_ format: String) -> [(text: String, isDirective: Bool)] {
    var parts: [(text: String, isDirective: Bool)] = []
    var rest = format.unicodeScalars[...]
    while let at = rest.firstIndex(of: "%") {
        parts.append((String(rest[..<at]), false))
        let length = rest[at...].dropFirst().first == "-" ? 3 : 2
        parts.append((String(rest[at...].prefix(length)), true))
        rest = rest[at...].dropFirst(length)
    }
    return parts + [(String(rest), false)]
}
