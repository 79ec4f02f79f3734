"""The command `eval memory`: what a memory finds of what is beyond the window, and what the model makes of it."""

from __future__ import annotations

import dataclasses
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from edgesink.bundles import bundle_of
from edgesink.cli.memory import say_if_only_words
from edgesink.cli.options import Json, Model, PrecisionOption, Threads, Window, int_list, split_list
from edgesink.cli.output import Bar, on_terminal, print_json, say
from edgesink.errors import BadOption
from edgesink.models import DEFAULT_MODEL
from edgesink.spec import DEFAULT_WINDOW

if TYPE_CHECKING:
    from edgesink.evaluate.memory import Answered, Arm, Score


def memory(
    model: Model = DEFAULT_MODEL,
    distances: Annotated[
        str, typer.Option(help="How far back facts were mentioned, in windows, comma-separated. 100 takes hours.")
    ] = "1,2",
    each: Annotated[int, typer.Option(min=1, max=64, help="Number of lines, and of notes, at each distance.")] = 8,
    diary: Annotated[
        bool, typer.Option("--diary", help="Ask about a diary of 200 days instead of --distances and --each.")
    ] = False,
    ways: Annotated[
        str,
        typer.Option(
            help="Ways of bringing back to compare, comma-separated: nothing, quoted, pinned, and seen, which mentions "
            "the fact again right before the question."
        ),
    ] = "nothing,quoted,pinned",
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps the conversation and the answers, so that the same command continues after an "
            "interruption. Default: nothing is kept."
        ),
    ] = None,
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
    from edgesink.evaluate.memory import Arm, Folder, false_recalls, measure, scores
    from edgesink.evaluate.memory_harm import harm
    from edgesink.evaluate.memory_plan import diary_plan, distances_plan
    from edgesink.memory.memory import Memory
    from edgesink.memory.sample_talk import small_talk, statements
    from edgesink.runtime.chat import Chat

    arms, back = _arms(ways, get_args(Arm)), sorted(set(int_list(distances)))
    if not diary and (not back or min(back) < 1 or each * len(back) > 64):
        raise BadOption(
            f"{each} notes at the distances {distances!r}", "distances from 1 up, and at most 64 notes in all"
        )
    stream = edgesink.load(bundle_of(model, "cache", window, precision, on_terminal()), threads)
    say_if_only_words(stream, str(stream.bundle))
    told = diary_plan() if diary else distances_plan(back, each)
    rows = ", with rows for the way pinned" if "pinned" in arms else ""
    name = ("the diary" if diary else f"the distances {back}, {each} notes each") + rows
    with tempfile.TemporaryDirectory() as aside, ExitStack() as stack:
        bar = stack.enter_context(Bar())
        kept_in = None if folder is None else Folder(folder, name)
        if kept_in is not None:
            stack.callback(kept_in.close)
        place = Path(aside) / "memory" if kept_in is None else kept_in.memory
        kept = Memory(place, "pinned" if "pinned" in arms else "quoted")
        stack.callback(kept.close)
        chat = Chat(stream, memory=kept, pin="fit")
        answered = list(measure(chat, kept, told, arms, lambda done, whole: bar.show("memory", done, whole), kept_in))
        bar.close()
        kept.way = "quoted"
        messages = {"small talk": small_talk(), "statements": statements()}
        false = {what: false_recalls(chat, kept, said) for what, said in messages.items()}
        harms = {}
        for arm in arms:
            if arm == "quoted" or arm == "pinned":
                kept.way = arm
                with Bar("answer") as reading:
                    harms[arm] = harm(chat, kept, arm, report=lambda done, whole: reading.show("harm", done, whole))
        trouble = kept.trouble
    table = scores(answered)
    if as_json:
        print_json({
            "scores": [dataclasses.asdict(one) for one in table], "false_recalls": false,
            "perplexity_rises": {arm: dataclasses.asdict(one) for arm, one in harms.items()},
            "answers": [dataclasses.asdict(one) for one in answered],
        })  # fmt: skip
        return
    if trouble:
        say(trouble)
    _print_scores(table, "days" if diary else "windows")
    for what, found in false.items():
        print(f"recalled for {what}: {len(found)} of {len(messages[what])} messages")
    for arm, one in harms.items():
        print(f"perplexity of answers with passages that do not matter, {arm}: {one.rise:+.2%} ± {one.error:.2%}")
    _print_times(answered, arms)


def _print_scores(table: list[Score], unit: str) -> None:
    print(f"{'kind':<12} {unit:>7}  {'tokens back':>14}  {'way':<8} {'questions':>9}  {'found':>5}  {'right':>5}")
    for one in table:
        tokens = f"{one.nearest} to {one.farthest}" if one.farthest else "-"
        print(
            f"{one.kind:<12} {one.back or '-':>7}  {tokens:>14}  {one.arm:<8} {one.questions:>9}  {one.found:>5.0%}  "
            f"{one.right:>5.0%}"
        )


def _print_times(answered: list[Answered], arms: list[Arm]) -> None:
    brought = [one for one in answered if one.recalled]
    for arm in arms:
        search_ms = sorted(one.search_ms for one in brought if one.arm == arm)
        bring_ms = sorted(one.bring_ms for one in brought if one.arm == arm)
        if search_ms:
            at = len(search_ms) // 2
            print(f"{arm}: searched in {search_ms[at]:.0f} ms, brought back in {bring_ms[at]:.0f} ms (medians)")


def _arms(ways: str, known: tuple[Arm, ...]) -> list[Arm]:
    found = [arm for name in split_list(ways) for arm in known if arm == name]
    if len(found) != len(split_list(ways)) or not found:
        raise BadOption(f"--ways {ways!r}", ", ".join(known))
    return found
