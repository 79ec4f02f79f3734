"""Write EdgesinkKit's table of canonical decompositions, as the `tokenizers` library knows them.

Foundation's own normalization is not used: on Linux it truncates scalars above U+FFFF when it composes and does not
reorder what U+0F73 decomposes to, and on a phone its tables are those of the system's Unicode version.
`test_swift_tokenizer.py` checks that the file is current.
"""

from pathlib import Path

from tokenizers import normalizers

TABLE = "apps/ios/EdgesinkKit/Sources/EdgesinkCore/Tokenizer/CanonicalTable.swift"
HANGUL = range(0xAC00, 0xD7A4)  # decomposed by arithmetic
WIDTH = 116


def entries() -> list[str]:
    """`C0=41 300`: a scalar and what it decomposes to; `:` in place of `=` where nothing composes to it."""
    nfd, nfc = normalizers.NFD(), normalizers.NFC()
    found = []
    for value in range(0xC0, 0x30000):
        if value in HANGUL or 0xD800 <= value < 0xE000:
            continue
        whole = chr(value)
        parts = nfd.normalize_str(whole)
        if parts != whole:
            sign = "=" if nfc.normalize_str(parts) == whole else ":"
            found.append(f"{value:X}{sign}{' '.join(f'{ord(part):X}' for part in parts)}")
    return found


def source() -> str:
    lines, line = [], ""
    for entry in entries():
        if line and len(line) + 1 + len(entry) > WIDTH:
            lines.append(line)
            line = ""
        line = f"{line},{entry}" if line else entry
    lines.append(line)
    table = ",\\\n".join(f"    {line}" for line in lines)
    return f'''/// Canonical decompositions, written by tests/make_nfc_table.py: not to be edited.
///
/// `C0=41 300`: U+00C0 is U+0041 U+0300 and composes from it; `:` where nothing composes to it.
let canonicalTable = """
{table}
    """
'''


if __name__ == "__main__":
    (Path(__file__).parents[1] / TABLE).write_text(source(), encoding="utf-8")
