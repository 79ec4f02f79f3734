"""A stream: what it says of itself, what it refuses, and how it is put away and taken up again."""

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from edgesink import load
from edgesink.errors import BadBundle, BadOption, BadSession, NoSpace
from edgesink.spec import StreamSpec

SPEC = StreamSpec(3, 13, 8, 5)


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("session") / "bundle", SPEC)


@pytest.fixture
def stream(bundle):
    return load(bundle)


def test_a_stream_counts_what_it_holds_and_what_it_has_left_behind(stream):
    assert (stream.sinks, stream.window, stream.capacity, stream.position, stream.evicted) == (3, 13, 16, 0, 0)
    stream.prefill(list(range(2, 18)))
    assert (stream.position, stream.evicted) == (16, 0)
    stream.step(5)
    assert (stream.position, stream.evicted) == (17, 1)
    stream.reset(sinks=0)
    assert (stream.sinks, stream.window, stream.capacity, stream.position) == (0, 16, 16, 0)
    stream.reset()
    assert stream.sinks == 0, "reset keeps the number of sinks"


def test_state_bytes_are_the_bytes_allocated_and_stay_so(stream):
    buffers = stream._backend.state()
    assert stream.state_bytes == sum(array.nbytes for array in buffers.values())
    places = {name: array.ctypes.data for name, array in buffers.items()}
    stream.prefill(list(range(2, 200)))
    assert {name: array.ctypes.data for name, array in stream._backend.state().items()} == places


def test_logits_belong_to_the_caller(stream):
    first = stream.step(5)
    kept = first.copy()
    stream.step(6)
    assert np.array_equal(first, kept)
    assert first.dtype == np.float32
    assert first.shape == (258,)


def test_a_new_stream_does_not_see_the_old_one(stream):
    fresh = stream.prefill([4, 5, 6])
    stream.prefill(list(range(2, 100)))
    stream.reset()
    assert np.array_equal(stream.prefill([4, 5, 6]), fresh)


@pytest.mark.parametrize(
    ("ids", "message"),
    [([], "ids of shape"), ([-1], "token id -1"), ([3, 258], "token id 258"), ([[1, 2]], "shape"), ([1.5], "integers")],
)
def test_ids_that_mean_nothing_are_refused_and_the_stream_goes_on(stream, ids, message):
    stream.prefill([4, 5])
    with pytest.raises(BadOption, match=message):
        stream.prefill(ids)
    assert stream.position == 2


@pytest.mark.parametrize("options", [{"sinks": 9}, {"sinks": -1}, {"threads": 0}, {"provider": "tpu"}], ids=str)
def test_options_out_of_range_are_refused(bundle, options):
    with pytest.raises(BadOption):
        load(bundle, **options)


def test_a_graph_that_is_not_one_is_refused_with_a_remedy(toy, tmp_path):
    from edgesink.manifest import Manifest, describe_file, replace_manifest

    bundle = toy.bundle(tmp_path / "bundle", SPEC)
    (bundle / "model.onnx").write_bytes(b"not a graph")
    import dataclasses

    manifest = Manifest.read(bundle)
    files = tuple(describe_file(bundle, bundle / file.path) for file in manifest.files)
    replace_manifest(bundle, dataclasses.replace(manifest, files=files))
    with pytest.raises(BadBundle, match="cannot load"):
        load(bundle)


def test_a_session_goes_on_exactly_where_it_was(stream, bundle, tmp_path):
    stream.reset(sinks=2)
    stream.prefill(list(range(2, 60)))
    stream.save(tmp_path / "session")
    expected = [stream.step(token) for token in (7, 8, 9)]
    other = load(bundle)
    other.restore(tmp_path / "session")
    assert (other.position, other.sinks) == (58, 2)
    assert all(np.array_equal(other.step(t), e) for t, e in zip((7, 8, 9), expected, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["session"]


def test_a_short_session_is_a_small_file(stream, tmp_path):
    stream.step(4)
    stream.save(tmp_path / "session")
    assert (tmp_path / "session").stat().st_size < stream.state_bytes / 2
    stream.reset()
    stream.restore(tmp_path / "session")
    assert stream.position == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no session file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "damaged"),
        (lambda path: path.write_bytes(b"x" * 100), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
    ],
)
def test_a_damaged_session_is_refused_and_the_stream_kept(stream, tmp_path, damage, message):
    path = tmp_path / "session"
    stream.prefill([4, 5, 6])
    stream.save(path)
    damage(path)
    with pytest.raises(BadSession, match=message):
        stream.restore(path)
    assert stream.position == 3


HEADERS = {
    "position below 0": {"position": "-1"},
    "position far below 0": {"position": "-1000"},
    "position of another stream": {"position": "500"},
    "position beyond float64": {"position": str(2**53)},
    "position beyond int64": {"position": str(2**63)},
    "position of 5000 digits": {"position": "9" * 5000},
    "position with a sign": {"position": "+5"},
    "position with a point": {"position": "5.0"},
    "position with a space": {"position": " 5"},
    "position with an underscore": {"position": "1_0"},
    "position in other digits": {"position": "٥"},
    "no position": {"position": None},
    "sinks below 0": {"sinks": "-1"},
    "sinks beyond the bundle's": {"sinks": "9"},
    "no sinks": {"sinks": None},
    "a field too many": {"more": "1"},
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS.keys())
def test_a_session_with_an_impossible_header_is_refused_and_the_stream_kept(stream, tmp_path, change):
    stream.prefill([4, 5, 6, 7, 8])
    stream.save(tmp_path / "session")
    state, header = contents(tmp_path / "session")
    header = {name: text for name, text in (header | change).items() if text is not None}
    refuses(stream, tmp_path / "session", state, header)


CONTENTS = {
    "a row too few": lambda key: key[:, :, :4],
    "a row too many": lambda key: np.concatenate([key, key[:, :, :1]], axis=2),
    "no rows": lambda key: key[:, :, :0],
    "one row for all": lambda key: key[:, :, :1],
    "head dimension 1": lambda key: key[..., :1],
    "one head": lambda key: key[:, :1],
    "two streams": lambda key: np.concatenate([key, key]),
    "flat": lambda key: key.reshape(-1),
    "another type": lambda key: key.astype(np.float64),
    "whole numbers": lambda key: key.astype(np.int32),
    "NaN": lambda key: np.full_like(key, np.nan),
    "infinite": lambda key: np.where(key == key.max(), np.inf, key).astype(key.dtype),
}


@pytest.mark.parametrize("change", CONTENTS.values(), ids=CONTENTS.keys())
def test_a_session_with_an_impossible_state_is_refused_and_the_stream_kept(stream, tmp_path, change):
    stream.prefill([4, 5, 6, 7, 8])
    stream.save(tmp_path / "session")
    state, header = contents(tmp_path / "session")
    refuses(stream, tmp_path / "session", state | {"value_1": np.ascontiguousarray(change(state["value_1"]))}, header)


def test_a_session_with_a_state_too_many_or_too_few_is_refused(stream, tmp_path):
    stream.prefill([4, 5, 6, 7, 8])
    stream.save(tmp_path / "session")
    state, header = contents(tmp_path / "session")
    refuses(stream, tmp_path / "session", state | {"key_99": state["key_0"]}, header)
    refuses(stream, tmp_path / "session", {name: array for name, array in state.items() if name != "key_0"}, header)


def contents(path):
    """The state and the header of a session file."""
    with safe_open(path, "numpy") as file:
        return load_file(path), file.metadata()


def refuses(stream, path, state, header):
    """Such a file is refused, and the stream goes on as one that never met it."""
    save_file(state, path, header)
    with pytest.raises(BadSession, match="damaged"):
        stream.restore(path)
    assert (stream.position, stream.sinks) == (5, 3)
    got = stream.step(9)
    stream.reset()
    assert np.array_equal(got, stream.prefill([4, 5, 6, 7, 8, 9]))
    stream.reset()
    stream.prefill([4, 5, 6, 7, 8])


def test_a_stream_that_has_begun_nothing_and_one_of_very_many_tokens_are_saved_and_restored(stream, tmp_path):
    stream.reset()
    stream.save(tmp_path / "empty")
    stream.prefill(list(range(2, 60)))
    stream.position = 2**51
    stream.save(tmp_path / "long")
    expected = stream.step(7)
    stream.restore(tmp_path / "empty")
    assert stream.position == 0
    stream.restore(tmp_path / "long")
    assert stream.position == 2**51
    assert np.array_equal(stream.step(7), expected)


def test_a_session_of_another_bundle_is_refused(stream, toy_maker, tmp_path):
    other = toy_maker(tmp_path / "other", seed=1).stream(tmp_path / "bundle", SPEC)
    other.prefill([4, 5])
    other.save(tmp_path / "session")
    with pytest.raises(BadSession, match="another bundle"):
        stream.restore(tmp_path / "session")


def test_a_full_disk_leaves_the_old_session_file_as_it_was(stream, tmp_path, full_disk):
    path = tmp_path / "session"
    stream.prefill([4, 5, 6])
    stream.save(path)
    before = path.read_bytes()
    stream.prefill(list(range(2, 60)))
    with full_disk(), pytest.raises(NoSpace):
        stream.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["session"]
