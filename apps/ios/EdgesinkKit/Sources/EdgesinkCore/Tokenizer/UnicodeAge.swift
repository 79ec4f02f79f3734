/// Which Unicode the `tokenizers` library knows, so that a scalar added since is treated as it treats it: unassigned.
///
/// Measured over all scalars against tokenizers 0.23 (`tests/test_swift_tokenizer.py`).
enum UnicodeAge {
    static let newest: (major: Int, minor: Int) = (17, 0)  // of Oniguruma's categories
    static let newestInNormalization: (major: Int, minor: Int) = (9, 0)

    static func known(_ scalar: Unicode.Scalar) -> Bool { isKnown(scalar, newest) }

    static func knownInNormalization(_ scalar: Unicode.Scalar) -> Bool { isKnown(scalar, newestInNormalization) }

    private static func isKnown(_ scalar: Unicode.Scalar, _ newest: (major: Int, minor: Int)) -> Bool {
        guard let age = scalar.properties.age else { return false }
        return (age.major, age.minor) <= newest
    }
}
