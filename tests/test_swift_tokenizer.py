"""EdgesinkKit's tokenizer against the `tokenizers` library, on more text than the golden files hold."""

import json
import random
from pathlib import Path

import make_golden_tokenizer as golden
import make_nfc_table as nfc
import pytest
import swift_cli as swift
from tokenizers import Tokenizer

from edgesink.runtime.tokenizer import Tokenizer as OurTokenizer
from edgesink.spec import StreamSpec

HERE = Path(__file__).parent


FAMILIES = list(golden.FAMILIES)
REAL = "smollm2-135m"


@pytest.fixture
def tokenizer_file(request, tmp_path: Path) -> Path:
    """tokenizer.json of the family that the test is given, or of the real SmolLM2-135M."""
    if request.param == REAL:
        make = request.getfixturevalue("smollm2_bundles")
        return make("int4", StreamSpec.fitted(window=28)) / "tokenizer.json"
    path = tmp_path / "tokenizer.json"
    stored = json.loads((golden.FOLDER / f"{request.param}.json").read_text(encoding="utf-8"))
    path.write_text(json.dumps(stored["tokenizer"]), encoding="utf-8")
    return path


def assert_equal(path: Path, texts: list[str]) -> None:
    library = Tokenizer.from_file(str(path))
    expected = [encoding.ids for encoding in library.encode_batch(texts, add_special_tokens=False)]
    got = swift.encode(path, texts)
    wrong = [(text, a, b) for text, a, b in zip(texts, got, expected, strict=True) if a != b]
    assert not wrong, f"{len(wrong)} of {len(texts)}, first: {wrong[0]}"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_golden_tokenizer_files_are_current(name):
    stored = json.loads((golden.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(golden.golden(name)))


def test_the_table_of_decompositions_is_current():
    assert (HERE.parent / nfc.TABLE).read_text(encoding="utf-8") == nfc.source()


@pytest.mark.parametrize("tokenizer_file", [*FAMILIES, REAL], indirect=True)
def test_random_unicode_is_encoded_as_the_library_does(tokenizer_file):
    assert_equal(tokenizer_file, [*golden.HARD, *golden.random_texts(300, seed=3)])


@pytest.mark.parametrize("tokenizer_file", FAMILIES, indirect=True)
def test_random_ids_are_decoded_as_python_does(tokenizer_file):
    python = OurTokenizer.of_bundle(tokenizer_file.parent)
    ids = golden.random_ids(python.rows(1 << 12).count, 200, seed=4)
    assert swift.decode(tokenizer_file, ids) == [python.decode(item) for item in ids]


@pytest.mark.parametrize("tokenizer_file", FAMILIES, indirect=True)
def test_special_tokens_go_around_a_plain_text_as_the_library_puts_them(tokenizer_file):
    library = Tokenizer.from_file(str(tokenizer_file))
    assert swift.encode(tokenizer_file, golden.HARD, "--special") == [library.encode(text).ids for text in golden.HARD]


def megabyte() -> str:
    """English, code, every script and broken characters, more than a million bytes."""
    draw = random.Random(6)
    english = (HERE / "data" / "persuasion_opening.txt").read_text(encoding="utf-8").splitlines()
    pieces, size = [], 0
    for odd in golden.random_texts(1_000_000, seed=7):
        pieces += [" ".join(draw.sample(english, 2)), draw.choice(["\n", " ", "", "\n\n"]), odd]
        size += sum(len(piece.encode("utf-8", "surrogatepass")) for piece in pieces[-3:])
        if size > 1_100_000:
            break
    return "".join(pieces)


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer_file", [*FAMILIES, REAL], indirect=True)
def test_a_megabyte_of_mixed_text_is_encoded_as_the_library_does(tokenizer_file):
    text = megabyte()
    assert len(text.encode("utf-8")) > 1_000_000
    assert_equal(tokenizer_file, [text, *text.split("\n")])


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer_file", ["gpt2", "smollm2", "qwen2", "o200k", "mistral"], indirect=True)
def test_every_scalar_of_unicode_is_encoded_as_the_library_does(tokenizer_file):
    scalars = [chr(value) for value in range(0x110000) if not 0xD800 <= value < 0xE000]
    together = [
        "".join(f"a{c}b1\u0301{c}\u0327 {c}" for c in scalars[at : at + 500]) for at in range(0, len(scalars), 500)
    ]
    assert_equal(tokenizer_file, together)
