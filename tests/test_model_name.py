"""What a user's MODEL is taken for."""

import json

import pytest

from edgesink.errors import BadCheckpoint
from edgesink.model_name import understand
from edgesink.models import MODELS


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder with one of everything that a MODEL may name."""
    monkeypatch.chdir(tmp_path)
    for name, file in (
        ("Llama-3.2-1B", "config.json"),
        ("my-bundle", "manifest.json"),
        ("smollm2-360m", "config.json"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(json.dumps({}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "Qwen2.5-0.5B-Q4_K.GGUF").write_bytes(b"GGUF")
    (tmp_path / "sha256-00ff").write_bytes(b"GGUF")
    for number in (1, 2):
        (tmp_path / f"Big-0000{number}-of-00003.gguf").write_bytes(b"GGUF")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind", "short"),
    [
        ("my-bundle", "bundle", "my-bundle"),
        ("Llama-3.2-1B", "checkpoint", "Llama-3.2-1B"),
        ("./Llama-3.2-1B/", "checkpoint", "Llama-3.2-1B"),
        ("Qwen2.5-0.5B-Q4_K.GGUF", "checkpoint", "Qwen2.5-0.5B-Q4_K"),
        ("sha256-00ff", "checkpoint", "sha256-00ff"),
        ("Big-00002-of-00003.gguf", "checkpoint", "Big"),
        ("smollm2-135m", "hub", "smollm2-135m"),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "hub", "SmolLM2-1.7B-Instruct"),
    ],
)
def test_a_model_is_understood(places, text, kind, short):
    named = understand(text)
    assert (named.kind, named.short) == (kind, short)
    assert (named.path is None) == (kind == "hub")


def test_a_short_name_has_its_hub_id_and_its_package():
    named = understand("smollm2-135m")
    assert named.hub_id == MODELS["smollm2-135m"].hub_id
    assert named.packaged is not None


def test_what_is_on_disk_comes_before_a_short_name(places):
    assert understand("smollm2-360m").kind == "checkpoint"


@pytest.mark.parametrize("text", ["no-such-model", "a/b/c", "./x/y", "~/x", "/x/y", "x/y.gguf", "", "/", "a/"])
def test_what_can_be_nothing_is_refused_with_the_choices(places, text):
    with pytest.raises(BadCheckpoint):
        understand(text)


def test_a_folder_that_holds_no_model_is_refused_by_name(places):
    with pytest.raises(BadCheckpoint, match="empty holds neither"):
        understand("empty")


def test_the_files_of_a_model_are_all_of_its_folder_or_all_its_parts(places):
    names = lambda text: [path.name for path in understand(text).files]  # noqa: E731
    assert names("Big-00002-of-00003.gguf") == ["Big-00001-of-00003.gguf", "Big-00002-of-00003.gguf"]
    assert names("sha256-00ff") == ["sha256-00ff"]
    assert names("Llama-3.2-1B") == ["config.json"]
