/// GPT-2's alphabet: each of the 256 bytes as one printable character, so that a vocabulary of bytes is text.
enum ByteAlphabet {
    /// The character of each byte: itself where printable, else U+0100 and on.
    static let scalarOfByte: [UInt32] = {
        let printable = Set(0x21...0x7E).union(0xA1...0xAC).union(0xAE...0xFF)
        var next: UInt32 = 0x100
        return (0..<256).map { byte in
            if printable.contains(byte) { return UInt32(byte) }
            defer { next += 1 }
            return next
        }
    }()

    static let byteOfScalar: [UInt32: UInt8] = Dictionary(
        uniqueKeysWithValues: scalarOfByte.enumerated().map { ($1, UInt8($0)) })

    /// The UTF-8 bytes of `text`, each as its character.
    static func spelled(_ text: some Collection<UInt32>) -> [UInt32] {
        var out: [UInt32] = []
        out.reserveCapacity(text.count)
        for value in text {
            if value < 0x80 {
                out.append(scalarOfByte[Int(value)])
            } else if let scalar = Unicode.Scalar(value) {
                for byte in UTF8.encode(scalar) ?? .init() { out.append(scalarOfByte[Int(byte)]) }
            }
        }
        return out
    }

    /// The bytes that `token` spells; its own UTF-8 where it has a character outside the alphabet.
    static func bytes(_ token: String) -> [UInt8] {
        var out: [UInt8] = []
        for scalar in token.unicodeScalars {
            guard let byte = byteOfScalar[scalar.value] else { return Array(token.utf8) }
            out.append(byte)
        }
        return out
    }
}
