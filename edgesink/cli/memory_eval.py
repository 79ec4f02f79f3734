"""The command `eval memory`: what a memory finds of what is beyond the window, and what the model makes of it."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from edgesink.bundles import bundle_of
from edgesink.cli.options import Json, Model, PrecisionOption, Threads, Window, int_list, split_list
from edgesink.cli.output import Bar, on_terminal, print_json, say
from edgesink.errors import BadOption
from edgesink.models import DEFAULT_MODEL
from edgesink.spec import DEFAULT_WINDOW

if TYPE_CHECKING:
    from edgesink.evaluate.memory import Arm


def memory(
    model: Model = DEFAULT_MODEL,
    distances: Annotated[
        str, typer.Option(help="How far back facts were mentioned, in windows, comma-separated. 100 takes hours.")
    ] = "1,2",
    each: Annotated[int, typer.Option(min=1, max=64, help="Number of lines, and of notes, at each distance.")] = 8,
    ways: Annotated[
        str, typer.Option(help="Ways of bringing back to compare, comma-separated.")
    ] = "nothing,quoted,pinned",
    window: Window = DEFAULT_WINDOW,
    precision: PrecisionOption = "int4",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure what comes back from beyond the window.

    Facts are mentioned in a long conversation, and asked for at its end: lines as in StreamEval, notes in their own
    words and in others, facts that changed, and what was never said. Small talk must bring nothing back, and what
    comes back for no reason must not harm.
    """
    import edgesink
    from edgesink.evaluate.memory import Arm, false_recalls, guard, measure, plan, scores
    from edgesink.memory import calibration
    from edgesink.memory.memory import Memory
    from edgesink.memory.sample_talk import small_talk
    from edgesink.runtime.chat import Chat

    arms, back = _arms(ways, get_args(Arm)), sorted(set(int_list(distances)))
    if not back or min(back) < 1 or each * len(back) > 64:
        raise BadOption(
            f"{each} notes at the distances {distances!r}", "distances from 1 up, and at most 64 notes in all"
        )
    stream = edgesink.load(bundle_of(model, "cache", window, precision, on_terminal()), threads)
    if calibration.read(stream.manifest) is None:
        say(f"{model} is not calibrated, so only words are searched: `edgesink memory calibrate {stream.bundle}`")
    with tempfile.TemporaryDirectory() as folder, Bar() as bar:
        kept = Memory(Path(folder) / "memory", "pinned" if "pinned" in arms else "quoted")
        chat = Chat(stream, memory=kept, pin="fit")
        told = plan(back, each)
        answered = list(measure(chat, kept, told, arms, lambda done, whole: bar.show("memory", done, whole)))
        bar.close()
        kept.way = "quoted"
        false = false_recalls(chat, kept)
        nats = {}
        for arm in arms:
            if arm != "nothing":
                kept.way = arm
                nats[arm] = guard(chat, kept, arm)
        trouble = kept.trouble
        kept.close()
    table = scores(answered)
    harm = {arm: math.exp(with_ - without) - 1 for arm, (without, with_) in nats.items()}
    if as_json:
        print_json({
            "scores": [dataclasses.asdict(one) for one in table], "false_recalls": false, "perplexity_rises": harm,
            "answers": [dataclasses.asdict(one) for one in answered],
        })  # fmt: skip
        return
    if trouble:
        say(trouble)
    print(f"{'kind':<12} {'windows':>7}  {'way':<8} {'questions':>9}  {'found':>5}  {'right':>5}")
    for one in table:
        print(f"{one.kind:<12} {one.windows:>7}  {one.arm:<8} {one.questions:>9}  {one.found:>5.0%}  {one.right:>5.0%}")
    print(f"recalled for small talk: {len(false)} of {len(small_talk())} messages")
    for arm, rise in harm.items():
        print(f"perplexity with a passage that does not matter, {arm}: {rise:+.2%}")
    brought = [one for one in answered if one.recalled]
    for arm in arms:
        here = sorted((one.search_ms, one.bring_ms) for one in brought if one.arm == arm)
        if here:
            search_ms, bring_ms = here[len(here) // 2][0], sorted(bring for _, bring in here)[len(here) // 2]
            print(f"{arm}: searched in {search_ms:.0f} ms, brought back in {bring_ms:.0f} ms (medians)")


def _arms(ways: str, known: tuple[Arm, ...]) -> list[Arm]:
    found = [arm for name in split_list(ways) for arm in known if arm == name]
    if len(found) != len(split_list(ways)) or not found:
        raise BadOption(f"--ways {ways!r}", ", ".join(known))
    return found
