"""tokenizer.json and its neighbours with a field deleted, cut, huge or of another type: used, or one EdgesinkError."""

import copy
import json
import time
from pathlib import Path

import pytest
from conftest import write_toy_tokenizer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from edgesink.errors import BadCheckpoint, EdgesinkError
from edgesink.export.checkpoint.config import end_ids, read_object
from edgesink.export.checkpoint.model_tokenizer import tokenizer_of_folder
from edgesink.runtime.tokenizer import Tokenizer as OurTokenizer

ROWS = 262
SECONDS = 2  # of this process, for one file
ODD = st.sampled_from([
    None, True, -1, 0, 3, 2**31, 2**32 - 1, 2**63, 1e308, "", "x", "▁" * 1000, "\ud800", [], [[]], [None], {},
    {"a": {}},
    {"type": "Sequence"}, {"type": "CTC"}, {"type": "Strip", "content": "a", "start": 9**9, "stop": 9**9},
    {"Regex": "(" * 50}, {"Regex": "(a*)*b"}, {"String": ""}, list(range(1000)), {str(n): n for n in range(1000)},
])  # fmt: skip


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Every place in JSON data that is not one of the many like it."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    found = [path] if path else []
    for key, item in items[:3] + items[-1:]:
        found += places(item, (*path, key))
    return found


def changed(data: dict, path: tuple, value: object, deletes: bool) -> dict:
    data = copy.deepcopy(data)
    *above, last = path
    place = data
    for key in above:
        place = place[key]
    if deletes:
        del place[last]
    else:
        place[last] = value
    return data


def whole_files() -> dict[str, dict]:
    """A folder's files as they should be."""
    folder = Path(__file__).parent
    data = json.loads((folder / "golden" / "tokenizer" / "mistral.json").read_text(encoding="utf-8"))["tokenizer"]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    return {
        "tokenizer.json": json.loads(tokenizer.to_str()),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "add_bos_token": True,
            "eos_token": {"content": "</s>", "lstrip": False}, "model_max_length": 100, "extra_special_tokens": ["<x>"],
            "added_tokens_decoder": {"2": {"content": "</s>", "special": True}},
        },
        "added_tokens.json": {"<y>": 900},
        "special_tokens_map.json": {"unk_token": "<unk>"},
    }  # fmt: skip


FILES = whole_files()
PLACES = [(name, path) for name, data in FILES.items() for path in places(data)]


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory) -> None:
    """What is slow the first time."""
    folder = tmp_path_factory.mktemp("whole")
    write_toy_tokenizer(folder)
    assert tokenizer_of_folder(folder, ROWS).dropped == ()


def use(tokenizer: OurTokenizer) -> None:
    """What a stream does with a tokenizer."""
    ids = tokenizer.encode("a <s> b日本🙂\x00", special=True)
    assert isinstance(tokenizer.decode(ids), str)
    assert tokenizer.rows(1000).count > 0


def read_in_time(read) -> None:
    """Nothing but an EdgesinkError of one line leaves, and soon."""
    begin, said = time.process_time(), ""
    try:
        read()
    except EdgesinkError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 1000
    assert time.process_time() - begin < SECONDS


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([path for name, path in PLACES if name == "tokenizer.json"]), value=ODD, deletes=st.booleans()
)
@example(path=("decoder",), value={"type": "CTC"}, deletes=False)
def test_a_bundle_with_any_tokenizer_file_is_used_or_refused(tmp_path, path, value, deletes):
    text = json.dumps(changed(FILES["tokenizer.json"], path, value, deletes))
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    read_in_time(lambda: use(OurTokenizer.of_bundle(tmp_path)))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=ODD, deletes=st.booleans())
@example(place=("tokenizer_config.json", ("tokenizer_class",)), value={}, deletes=False)
def test_a_checkpoint_with_any_tokenizer_files_is_used_or_refused(tmp_path, place, value, deletes):
    name, path = place
    for file, data in FILES.items():
        made = changed(data, path, value, deletes) if file == name else data
        (tmp_path / file).write_text(json.dumps(made), encoding="utf-8")

    def read() -> None:
        made = tokenizer_of_folder(tmp_path, 1000)
        use(OurTokenizer(made.inner))
        assert made.inner.encode("ab").ids == [*made.front, *made.inner.encode("ab", add_special_tokens=False).ids]

    read_in_time(read)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), cut=st.integers(0, 5000))
@example(data=b"[" * 200_000, cut=0)
@example(data=b"\xff\xfe", cut=0)
@example(data=b'{"version":"1.0","model":{"type":"BPE","vocab":{"a":4294967295},"merges":[]}}', cut=0)
def test_bytes_that_are_no_tokenizer_are_refused(tmp_path, data, cut):
    write_toy_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:cut] + data)
    read_in_time(lambda: use(OurTokenizer.of_bundle(tmp_path)))
    read_in_time(lambda: tokenizer_of_folder(tmp_path, ROWS))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON)
def test_any_end_in_a_config_is_an_id_or_refused(tmp_path, value):
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": value}), encoding="utf-8")
    try:
        found = end_ids("it has eos_token_id", read_object(path)["eos_token_id"], ROWS)
    except BadCheckpoint:
        assert not (type(value) is int and 0 <= value < ROWS)
    else:
        assert all(type(id_) is int and 0 <= id_ < ROWS for id_ in found)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json"])
def test_a_file_that_is_not_json_is_named(tmp_path, file):
    write_toy_tokenizer(tmp_path)
    (tmp_path / file).write_text("<!DOCTYPE html>")
    with pytest.raises(BadCheckpoint, match=str(tmp_path)):
        tokenizer_of_folder(tmp_path, ROWS)
