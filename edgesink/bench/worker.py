"""One engine, one window, one number of threads, in a process of its own: a job in as JSON, figures out as JSON.

Run as a script by whatever Python has the engine installed, so nothing of edgesink is imported here but by its own
engine. Every engine streams forever in its own best way, is fed the same ids and gives the most likely next token
at every step; the clock and the sums are the same for all. Peers' interfaces: llama.h (llama_memory_seq_rm, _seq_add),
onnxruntime-genai's Generator, openvino-genai's CacheEvictionConfig.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Job = dict[str, Any]
WARM_UP = 32  # tokens fed before the clock starts
LLAMA_BATCH = 512  # llama.cpp's default, its fastest prefill
POWERCAP = Path("/sys/class/powercap")  # of Linux: what processors say of the energy that they take (RAPL)


class Engine(Protocol):
    """A stream without end within `window` tokens."""

    version: str
    state_bytes: int | None  # of keys and values, where the engine tells
    cycle: int  # steps after which its work repeats; 1 if every step is alike

    def reset(self) -> None:
        """Start a new stream."""

    def feed(self, ids: np.ndarray) -> None:
        """Go on by ids, int64 [n], any number."""

    def logits(self) -> np.ndarray:
        """float32 [V] after the last id."""


class Edgesink:
    """The bundle named by the job."""

    cycle = 1

    def __init__(self, job: Job) -> None:
        import edgesink

        self._stream = edgesink.load(job["model"], threads=job["threads"], kernels=job.get("kernels"))
        self.version = self._stream.runner
        self.state_bytes: int | None = self._stream.state_bytes
        self._logits = np.empty(0, np.float32)

    def reset(self) -> None:
        self._stream.reset()

    def feed(self, ids: np.ndarray) -> None:
        self._logits = self._stream.feed(ids)

    def logits(self) -> np.ndarray:
        return self._logits


class LlamaCpp:
    """llama.cpp through its C interface; when the context is full the tokens after the sinks go.

    `evict`: "half" of them, as llama-server does, or "one", as StreamingLLM does.
    """

    state_bytes: int | None = None

    def __init__(self, job: Job) -> None:
        import llama_cpp

        self._llama = llama = llama_cpp
        self._log = llama.llama_log_callback(lambda level, text, data: None)  # kept alive: C calls it
        llama.llama_log_set(self._log, ctypes.c_void_p(0))
        llama.llama_backend_init()
        options = llama.llama_model_default_params()
        options.n_gpu_layers = 0
        model = llama.llama_model_load_from_file(job["model"].encode(), options)
        context = llama.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = job["window"], LLAMA_BATCH, LLAMA_BATCH
        context.n_threads = context.n_threads_batch = job["threads"]
        self._context = llama.llama_init_from_model(model, context)
        self._memory = llama.llama_get_memory(self._context)
        self._vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        self._batch = llama.llama_batch_init(LLAMA_BATCH, 0, 1)
        self._sinks, self._window, self._half = job["sinks"], job["window"], job["evict"] == "half"
        self._length = 0
        self.cycle = (self._window - self._sinks) // 2 if self._half else 1
        self.version = f"llama-cpp-python {llama_cpp.__version__}"

    def reset(self) -> None:
        self._llama.llama_memory_clear(self._memory, True)
        self._length = 0

    def feed(self, ids: np.ndarray) -> None:
        for start in range(0, len(ids), LLAMA_BATCH):
            part = ids[start : start + LLAMA_BATCH]
            self._make_room(len(part))
            self._decode(part)

    def logits(self) -> np.ndarray:
        pointer = self._llama.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(pointer, shape=(self._vocabulary,))

    def _make_room(self, tokens: int) -> None:
        sinks, over = self._sinks, self._length + tokens - self._window
        if over <= 0:
            return
        gone = max(over, (self._length - sinks) // 2 if self._half else 0)
        self._llama.llama_memory_seq_rm(self._memory, 0, sinks, sinks + gone)
        self._llama.llama_memory_seq_add(self._memory, 0, sinks + gone, self._length, -gone)
        self._length -= gone

    def _decode(self, ids: np.ndarray) -> None:
        batch = self._batch
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place] = int(token), self._length + place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = place == len(ids) - 1
        if self._llama.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")
        self._llama.llama_synchronize(self._context)
        self._length += len(ids)


class OnnxRuntimeGenai:
    """A model folder made by onnxruntime-genai's builder.

    It has a window without sinks, so it rewinds: when the window is full it goes back to the sinks and is fed the
    newer half again.
    """

    state_bytes: int | None = None

    def __init__(self, job: Job) -> None:
        import onnxruntime_genai

        config = onnxruntime_genai.Config(job["model"])
        threads = {"intra_op_num_threads": job["threads"], "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._genai, self._model = onnxruntime_genai, onnxruntime_genai.Model(config)
        self._sinks, self._window = job["sinks"], job["window"]
        self.cycle = (self._window - self._sinks) // 2
        self.version = f"onnxruntime-genai {onnxruntime_genai.__version__}"
        self.reset()

    def reset(self) -> None:
        options = self._genai.GeneratorParams(self._model)
        options.set_search_options(max_length=self._window, do_sample=False)
        self._generator, self._held = self._genai.Generator(self._model, options), np.empty(0, np.int32)

    def feed(self, ids: np.ndarray) -> None:
        new, most = np.asarray(ids, np.int32), self._window - 1
        if len(self._held) + len(new) > most and len(self._held):
            newer = self._held[len(self._held) - (len(self._held) - self._sinks) // 2 :]
            self._generator.rewind_to(self._sinks)
            self._held, new = self._held[: self._sinks], np.concatenate([newer, new])
        self._generator.append_tokens(new)
        self._held = np.concatenate([self._held, new])

    def logits(self) -> np.ndarray:
        logits: np.ndarray = self._generator.get_logits()
        return logits.reshape(-1, logits.shape[-1])[-1]


class OpenVinoGenai:
    """A GGUF or a model folder, with the cache eviction of openvino-genai, whose own generation cannot be fed.

    Positions are not rotated (its rotation fails on a graph made of a GGUF), and the sinks are a block of 32.
    """

    BLOCK = 32

    def __init__(self, job: Job) -> None:
        import openvino_genai as genai

        window = job["window"]
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size, scheduler.num_kv_blocks = 0, window // self.BLOCK * 2 + 32
        scheduler.max_num_batched_tokens, scheduler.enable_prefix_caching = 512, False
        scheduler.use_cache_eviction = True
        recent = (window - self.BLOCK) // 2 // self.BLOCK * self.BLOCK
        scheduler.cache_eviction_config = genai.CacheEvictionConfig(
            start_size=self.BLOCK,
            recent_size=recent,
            max_cache_size=window,
            aggregation_mode=genai.AggregationMode.NORM_SUM,
            apply_rotation=False,
        )
        options = {"INFERENCE_NUM_THREADS": job["threads"], "PERFORMANCE_HINT": "LATENCY"}
        self._genai = genai
        self._pipeline = genai.LLMPipeline(job["model"], "CPU", scheduler_config=scheduler, **options)
        self.version = f"openvino-genai {genai.__version__}"

    def generate(self, ids: np.ndarray, tokens: int) -> tuple[float, list[float]]:
        """Seconds to the first token, and milliseconds to each of the `tokens` that follow."""
        import openvino

        options = self._genai.GenerationConfig(max_new_tokens=tokens + 1, ignore_eos=True, do_sample=False)
        options.apply_chat_template = False
        batch = np.asarray([ids], np.int64)
        inputs = self._genai.TokenizedInputs(openvino.Tensor(batch), openvino.Tensor(np.ones_like(batch)))
        times = [time.perf_counter()]

        def note(_: Any) -> Any:
            times.append(time.perf_counter())
            return self._genai.StreamingStatus.RUNNING

        self._pipeline.generate(inputs, options, note)
        return times[1] - times[0], [1e3 * float(step) for step in np.diff(times[1:])]


FED: dict[str, Callable[[Job], Engine]] = {
    "edgesink": Edgesink,
    "llama.cpp": LlamaCpp,
    "onnxruntime-genai": OnnxRuntimeGenai,
}


def measure(job: Job) -> dict[str, Any]:
    """Time one engine.

    Args:
        job: engine, model (path), window, sinks, threads, ids (path of int64 .npy), prompt (tokens), chunks (tokens
            fed at once while the window is filled; 0: all of it), steps, perplexity (tokens scored, 0 for none), and
            what the engine takes.
    Returns:
        version; first_token_s: from nothing loaded to the logits after the prompt; prefill: tokens/s by chunk;
        steps: milliseconds each, ring full; joules: of all processors, a step, or None where the system does not tell;
        peak_bytes: resident; nats: each scored token's surprise.
    """
    ids = np.load(job["ids"])
    if job["engine"] == "openvino-genai":
        return _measure_generating(job, ids)
    began = time.perf_counter()
    engine = FED[job["engine"]](job)
    engine.feed(ids[: job["prompt"]])
    int(np.argmax(engine.logits()))
    first = time.perf_counter() - began
    result: dict[str, Any] = {"version": engine.version, "first_token_s": first, "prefill": {}}
    result["state_bytes"] = engine.state_bytes
    if job["perplexity"]:
        result["nats"] = _nats(engine, ids[: job["perplexity"] + 1])
        return result
    full = job["window"] - 1
    for chunk in job["chunks"]:
        result["prefill"][str(chunk)] = full / _fill(engine, ids[:full], chunk or full)
    steps = -(-job["steps"] // engine.cycle) * engine.cycle
    for token in ids[full : full + WARM_UP]:
        engine.feed(np.array([token]))
    meter = EnergyMeter()
    result["steps"] = [_step(engine, int(token)) for token in np.resize(ids[full + WARM_UP :], steps)]
    joules = meter.joules()
    result["joules"] = None if joules is None else joules / steps
    return {**result, "peak_bytes": _peak_bytes()}


class EnergyMeter:
    """What the processors of this machine have used since the meter was made, whoever used it."""

    def __init__(self) -> None:
        self._began = self._read()

    def joules(self) -> float | None:
        """None where the system does not tell, or lets only its administrator read it."""
        used = [(now - self._began[zone][0]) % (most + 1) for zone, (now, most) in self._read().items()]
        return sum(used) / 1e6 if used else None

    def _read(self) -> dict[str, tuple[int, int]]:
        """Package -> microjoules on its counter, and the most that it counts to."""
        found = {}
        for zone in sorted(POWERCAP.glob("intel-rapl:*")):  # AMD's too
            try:
                name, *numbers = ((zone / file).read_text() for file in ("name", "energy_uj", "max_energy_range_uj"))
            except OSError:
                continue
            if name.startswith("package"):
                found[zone.name] = int(numbers[0]), int(numbers[1])
        return found


def quantize(job: Job) -> dict[str, Any]:
    """Write the GGUF `model` once more as `goal`, its matrices as `kind` ("Q8_0"), by llama.cpp itself."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{job['kind']}")
    options.allow_requantize = True
    failed = llama_cpp.llama_model_quantize(job["model"].encode(), job["goal"].encode(), ctypes.byref(options))
    if failed:
        raise RuntimeError(f"llama_model_quantize returned {failed}")
    return {}


def _measure_generating(job: Job, ids: np.ndarray) -> dict[str, Any]:
    began = time.perf_counter()
    engine = OpenVinoGenai(job)
    engine.generate(ids[: job["prompt"]], 1)
    first = time.perf_counter() - began
    full = job["window"] - engine.BLOCK
    filling, steps = engine.generate(ids[:full], job["steps"] + 2 * engine.BLOCK)
    return {
        "version": engine.version,
        "first_token_s": first,
        "prefill": {"0": full / filling},
        "steps": steps[2 * engine.BLOCK :],
        "peak_bytes": _peak_bytes(),
    }


def _fill(engine: Engine, ids: np.ndarray, chunk: int) -> float:
    """Seconds to feed ids to a new stream, `chunk` at a time."""
    engine.reset()
    began = time.perf_counter()
    for start in range(0, len(ids), chunk):
        engine.feed(ids[start : start + chunk])
    engine.logits()
    return time.perf_counter() - began


def _step(engine: Engine, token: int) -> float:
    """Milliseconds from an id to the likeliest that follows."""
    began = time.perf_counter()
    engine.feed(np.array([token]))
    int(np.argmax(engine.logits()))
    return 1e3 * (time.perf_counter() - began)


def _nats(engine: Engine, ids: np.ndarray) -> list[float]:
    """Of every id but the first, fed one by one."""
    engine.reset()
    nats = []
    for token, following in itertools.pairwise(ids):
        engine.feed(np.array([token]))
        logits = engine.logits().astype(np.float64)
        nats.append(float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[following]))
    return nats


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage tells the larger of ours and of what the process was forked from
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    job: Job = json.loads(sys.argv[1])
    answer = quantize(job) if "kind" in job else measure(job)
    Path(job["answer"]).write_text(json.dumps(answer), encoding="utf-8")
