"""How a model of transformers turns its keys, found out by trying: it knows the names of no family.

Owns the run of a model's own forward with its rotary embedding overridden, and the probes that tell which layers turn
which dimensions, how fast, and how far each layer was trained to look back. What it does not understand it refuses.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253  (runs PyTorch models; `reference` imports this module lazily)
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer  # noqa: TID253

from edgesink.errors import BadCheckpoint, first_line
from edgesink.slow_ring import Rotary, slow_ring

Tensor = torch.Tensor
Pair = tuple[Tensor, Tensor]  # cosine and sine

PROBE_TOKENS = 6
SUPPORTED = "one whose layers keep keys and values only, turned by a rotary embedding with halves paired, or ALiBi"


@dataclass(frozen=True)
class Embedding:
    """One rotary embedding of a model: a module, and the kind of layer where one module serves several."""

    module: Any
    kind: str | None

    @property
    def frequencies(self) -> Tensor:
        """As they stand now, float64 [P]; LongRoPE changes them with the length of what it was last called for."""
        buffer: Tensor = getattr(self.module, f"{self.kind}_inv_freq" if self.kind else "inv_freq")
        return buffer.detach().double().clone()

    def at(self, position: int, like: Tensor) -> Pair:
        """The model's own cosine and sine, [1, 1, dimensions], at a position."""
        places = torch.tensor([[position]], device=like.device)
        return self.module(like, places) if self.kind is None else self.module(like, places, self.kind)


Answer = Callable[[Embedding, Pair], Pair]
"""(embedding, its cosine and sine) -> those that the model gets instead."""


def identity(embedding: Embedding, own: Pair) -> Pair:
    """Cosine 1 and sine 0: nothing is turned."""
    return torch.ones_like(own[0]), torch.zeros_like(own[1])


class Forward:
    """A causal model of transformers as a function of ids, whose rotary embeddings can be overridden for a call.

    The overriding hooks are there during a call only: the model is otherwise as it was.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.name = model, str(model.config.model_type)
        parameters = inspect.signature(model.forward).parameters
        self._cache = "cache" if "cache" in parameters else "past_key_values"
        self.takes_positions = "position_ids" in parameters
        self._rotaries = [m for m in model.modules() if any(n.endswith("inv_freq") for n in m._buffers)]

    def __call__(self, ids: list[int], answer: Answer, cache: Cache | None = None, position: int = 0) -> Tensor:
        """Logits [n, V] of n ids; with a cache of one id, which is said to be at `position`."""
        options: dict[str, Any] = {"use_cache": False} if cache is None else {"use_cache": True, self._cache: cache}
        if cache is not None and self.takes_positions:
            options["position_ids"] = torch.tensor([[position]], device=self.model.device)
        with torch.no_grad(), self._overridden(answer):
            logits: Tensor = self.model(torch.tensor([ids], device=self.model.device), **options).logits[0]
        return logits

    @contextlib.contextmanager
    def _overridden(self, answer: Answer) -> Iterator[None]:
        def hook(module: Any, args: tuple, options: dict[str, Any], own: Any) -> Pair:
            if not isinstance(own, tuple) or len(own) != 2:
                raise BadCheckpoint(f"{self.name} has a rotary embedding that is no cosine and sine", SUPPORTED)
            kind = options.get("layer_type", args[2] if len(args) > 2 else None)
            return answer(Embedding(module, kind), own)

        handles = [module.register_forward_hook(hook, with_kwargs=True) for module in self._rotaries]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@dataclass(frozen=True)
class Layers:
    """What the layers of a model do with keys: as `slow_ring` wants it."""

    own_windows: list[int | None]  # the trained sliding window of each layer
    rotaries: list[Rotary | None]  # how each layer turns its keys

    def ring(self, sinks: int, window: int, original: bool = False) -> Cache:
        """An empty slow ring."""
        return slow_ring(sinks, window, self.own_windows, self.rotaries, original)


def probe(forward: Forward, capacity: int) -> Layers:
    """Find out how the layers turn their keys, for in-cache positions below `capacity`.

    Raises:
        BadCheckpoint: the slow ring cannot be this model's cache, or a stream on it would not be what transformers
            computes before the first eviction.
    """
    _refuse_unseen_positions(forward)
    own_windows = trained_windows(forward)
    vocabulary = forward.model.get_input_embeddings().num_embeddings
    ids = [(1 + 7919 * i) % vocabulary for i in range(PROBE_TOKENS)]
    seen: dict[Embedding, Pair] = {}
    expected = forward(ids, lambda embedding, own: seen.setdefault(embedding, own))
    try:
        rotaries = {embedding: static_rotary(forward, embedding, own[0], capacity) for embedding, own in seen.items()}
        layers = Layers(own_windows, _rotary_of_each_layer(forward, len(own_windows), rotaries))
        _check(forward, layers, ids, expected, capacity)
        _look_back_over(forward, layers, capacity)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{forward.name} does not run on the slow ring ({first_line(error)})", SUPPORTED) from error
    return layers


def _refuse_unseen_positions(forward: Forward) -> None:
    """A model that is told no positions makes them from the cache's length: ALiBi may, a learned embedding may not."""
    words = forward.model.get_input_embeddings()
    others = [m for m in forward.model.modules() if isinstance(m, torch.nn.Embedding) and m is not words]
    if others and not forward.takes_positions:
        raise BadCheckpoint(f"{forward.name} seems to have learned positions ({others[0]})", SUPPORTED)


def trained_windows(forward: Forward) -> list[int | None]:
    """The sliding window of each layer, as transformers' own cache knows it; None where all is seen."""
    config = forward.model.config
    if "chunked_attention" in (getattr(config.get_text_config(decoder=True), "layer_types", None) or ()):
        raise BadCheckpoint(f"{forward.name} has layers that look back to the start of a chunk", SUPPORTED)
    windows: list[int | None] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise BadCheckpoint(f"{forward.name} has layers with a state of another kind ({layer!r})", SUPPORTED)
        windows.append(getattr(layer, "sliding_window", None))
    return windows


def static_rotary(forward: Forward, embedding: Embedding, like: Tensor, capacity: int) -> Rotary:
    """A rotary embedding of the model, which has just been called for few tokens, if it is one we know.

    It must pair halves and be the same for every position below the capacity: the model's own cosine and sine at the
    last of them are compared with ours.
    """
    frequencies, like = embedding.frequencies, like.double()
    own = torch.cat([t.flatten() for t in embedding.at(capacity - 1, like)])
    amplitude = float(embedding.at(0, like)[0].flatten()[0])  # and LongRoPE has its short frequencies again
    angle = (frequencies * (capacity - 1)).to(own.device).repeat(2)
    ours = torch.cat([angle.cos(), angle.sin()]) * amplitude
    rounding = 1e-3 + 1e-6 * capacity  # theirs are angles in float32
    if ours.shape != own.shape or (ours - own).abs().max() > rounding:
        raise BadCheckpoint(
            f"{forward.name} does not turn position {capacity - 1} by its first frequencies, halves paired",
            f"{SUPPORTED}, and a capacity within the context for which its frequencies are made",
        )
    return Rotary(frequencies, amplitude)


def _rotary_of_each_layer(forward: Forward, count: int, rotaries: dict[Embedding, Rotary]) -> list[Rotary | None]:
    """Which embedding a layer uses: its keys are zero in the dimensions that turn if cosine and sine are zero.

    A key may be zero in other dimensions too, turned or not: Gemma's norms have weights that are.
    """
    found: list[Rotary | None] = [None] * count
    always = _zeros_of_keys(forward, count, identity)
    for embedding, rotary in rotaries.items():

        def zero(asked: Embedding, own: Pair, embedding: Embedding = embedding) -> Pair:
            return (own[0] * 0, own[1] * 0) if asked == embedding else identity(asked, own)

        for i, zeros in enumerate(_zeros_of_keys(forward, count, zero)):
            if zeros == always[i]:
                continue
            if found[i] is not None or zeros != always[i].union(range(2 * len(rotary.frequencies))):
                raise BadCheckpoint(
                    f"layer {i} of {forward.name} turns other dimensions than a head's first", SUPPORTED
                )
            found[i] = rotary
    return found


def _zeros_of_keys(forward: Forward, count: int, answer: Answer) -> list[set[int]]:
    """The dimensions in which every key of a token is zero, for each layer."""
    ring = Layers([None] * count, [None] * count).ring(0, 1)
    forward([1], answer, ring)
    layers: list[Any] = ring.layers
    return [set((layer.keys == 0).all(dim=1).flatten().nonzero().flatten().tolist()) for layer in layers]


def _look_back_over(forward: Forward, layers: Layers, capacity: int) -> None:
    """A token of a full ring: a model that cannot see so many, as MPT whose slopes end, raises what PyTorch raises."""
    ring = layers.ring(0, capacity)
    forward([1], identity, ring, capacity - 1)
    kept: list[Any] = ring.layers
    for layer in kept:
        layer.fill()
    forward([1], identity, ring, capacity - 1)


def _check(forward: Forward, layers: Layers, ids: list[int], expected: Tensor, capacity: int) -> None:
    """Refuse a model whose own logits the ring does not give.

    The model is told one and the same position for every token, the last of the cache: if it has learned positions or
    scales its queries by them within the capacity, its logits differ.
    """
    ring = layers.ring(0, len(ids))
    got = torch.cat([forward([token], identity, ring, capacity - 1) for token in ids]).float()
    limit = max(1e-3, 20 * torch.finfo(expected.dtype).eps) * float(expected.float().std())
    difference = float((got - expected.float()).abs().max())
    if not difference <= limit:
        raise BadCheckpoint(
            f"before anything is evicted, the oracle's logits of {forward.name} differ from transformers' by "
            f"{difference:.2g} (limit {limit:.2g}): something in it depends on positions in a way we do not know",
            SUPPORTED,
        )
