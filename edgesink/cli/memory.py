"""The commands `memory …`: look into a memory file, forget what is in it, and calibrate a model for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgesink.cli.options import Json, Model, Threads
from edgesink.cli.output import Bar, on_terminal, print_json, say
from edgesink.errors import BadOption, EdgesinkError
from edgesink.manifest import CALIBRATION, Manifest
from edgesink.models import DEFAULT_MODEL

if TYPE_CHECKING:
    from edgesink.memory.archive import Archive, Passage
    from edgesink.memory.calibration import Calibration
    from edgesink.memory.memory import Recall
    from edgesink.memory.recalling import Way
    from edgesink.runtime.chat import Chat
    from edgesink.runtime.session import Stream

MemoryFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="A memory that `edgesink chat --memory` wrote, or the name of a session that has one."
    ),
]


def search(
    file: MemoryFile,
    message: Annotated[str, typer.Argument(help="What is looked for, as one would ask for it.")],
    model: Annotated[
        str | None,
        typer.Option(help="The model of that conversation, to search by meaning too. Default: search by words only."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of passages to show at most.")] = 4,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Show what would come back for a message."""
    from edgesink.memory.asking import ask_alone
    from edgesink.memory.search import Asked
    from edgesink.memory.search import search as search_in

    archive = _archive(file)
    asked, made = Asked(message), None
    if model is not None:
        import edgesink
        from edgesink.bundles import find_bundle
        from edgesink.memory import calibration

        stream = edgesink.load(find_bundle(model, talk=on_terminal()), threads)
        made = calibration.read(stream.manifest, stream.bundle)
        if made is None:
            raise BadOption(f"--model {model}", "a model that is calibrated", f"edgesink memory calibrate {model}")
        asked = ask_alone(stream, made, message)
    found = search_in(archive, asked, made, 0, 0, count)
    if as_json:
        print_json([{"score": one.score, "way": one.way, **_as_data(one.passage)} for one in found])
        return
    for one in found:
        print(f"{one.score:.2f} by {one.way}  {_line(one.passage)}")
    if not found:
        say("nothing would come back")


def list_(
    file: MemoryFile,
    count: Annotated[int, typer.Option(min=1, help="Number of passages to show, the newest last.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the newest passages of a memory."""
    archive = _archive(file)
    passages = archive.newest(count)[::-1]
    if as_json:
        print_json({"passages": archive.count, "bytes": archive.bytes, "newest": [*map(_as_data, passages)]})
        return
    for passage in passages:
        print(_line(passage))
    say(f"({archive.count} passages, {archive.bytes / (1 << 20):.1f} MiB)")


def forget(
    file: MemoryFile,
    numbers: Annotated[
        list[int] | None,
        typer.Argument(help="Numbers of passages, from `memory list`. Default: with --all, every one."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Forget every passage.")] = False,
) -> None:
    """Remove passages from a memory for good.

    Their pages in the file are overwritten. Copies that the disk itself or a backup has made are out of reach.
    """
    if bool(numbers) == everything:
        raise BadOption("numbers of passages and --all" if everything else "no numbers of passages", "one of the two")
    archive = _archive(file)
    say(f"({archive.forget_all() if everything else archive.forget(numbers or [])} passages are forgotten)")


def export(file: MemoryFile) -> None:
    """Print a memory as JSON, one passage a line."""
    for passage in _archive(file).export():
        print_json(_as_data(passage), indent=None)


def calibrate(
    model: Model = DEFAULT_MODEL,
    for_bundle: Annotated[
        Path | None,
        typer.Option(
            "--for",
            metavar="BUNDLE",
            help="Another bundle of the same model, for example one for Core ML: write the result into its folder. "
            "MODEL is measured only if the cache has no result yet. The bundle must have the same architecture, "
            "tokenizer and chat format, and the values of a short text must be alike in both; a model with other "
            "weights is refused, but not one that was trained a little further. Default: keep the result in the cache.",
        ),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Find out how a model's own values tell what belongs together.

    Takes some minutes once. Then a memory finds what was said in other words than those of a question. The result is
    kept in the cache; without it a memory searches by words only.
    """
    import edgesink
    from edgesink.bundles import find_bundle
    from edgesink.memory import calibration
    from edgesink.memory.calibrate import PASSAGES

    other = None if for_bundle is None else _bundle_for(for_bundle)
    bundle = find_bundle(model, talk=on_terminal())
    if (target := Manifest.read(bundle).target) != "onnx":
        remedy = f"edgesink memory calibrate MODEL --for {model}, MODEL being what it was exported from"
        raise BadOption(f"{model} is a bundle for {target}", "a model, or a bundle for onnx", remedy)
    stream = edgesink.load(bundle, threads)
    likeness = None
    if for_bundle is None or other is None:
        made, goal = _measured(stream), calibration.place_of(stream.manifest)
    else:
        (made, likeness), goal = _lent(stream, for_bundle, other), for_bundle / CALIBRATION
    if as_json:
        alike = {} if likeness is None else {"likeness": likeness}
        print_json({"file": str(goal), **dataclasses.asdict(made.numbers), **alike})
        return
    print(f"layer     {made.numbers.layer}")
    found = f"{made.numbers.found:.0%} of the paraphrased questions"
    print(f"found     {found} find their note first among {PASSAGES} passages")
    print(f"passed    {made.numbers.passed:.0%} of them are found and taken for questions about what was told")
    if likeness is not None:
        print(f"alike     {likeness:.2f} is the mean cosine of the values of a text in both bundles")
    say(f"(kept in {goal})")


def _measured(stream: Stream) -> Calibration:
    """That of a stream's bundle, measured and kept in the cache."""
    from edgesink.memory import calibration
    from edgesink.memory.calibrate import calibrate as measure

    with Bar("message") as bar:
        made = measure(stream, lambda done, whole: bar.show("calibrate", done, whole))
    calibration.write(made, calibration.place_of(stream.manifest))
    return made


def _bundle_for(folder: Path) -> Manifest:
    """The manifest of --for, whose files are as it says."""
    manifest = Manifest.read(folder)
    manifest.check_files(folder)
    return manifest


def _lent(stream: Stream, folder: Path, other: Manifest) -> tuple[Calibration, float]:
    """The calibration of a stream's bundle, put into another of the model; and how alike the values of both are."""
    from edgesink.memory import calibration
    from edgesink.memory.borrowing import borrowed, check_same_model, layers_of, probe_ids
    from edgesink.verify.value_rows import value_rows

    check_same_model(stream.manifest, other)
    made = calibration.read(stream.manifest, stream.bundle) or _measured(stream)
    layers, prefix = layers_of(made), stream.manifest.prefix
    ids = probe_ids(stream.tokenizer, stream.manifest, other)
    theirs = value_rows(folder, other, layers, ids)
    stream.feed(ids[len(prefix) :].tolist())  # the stream begins with the prefix by itself
    mine = {layer: stream.values(layer, 0, len(ids)) for layer in layers}
    lent, likeness = borrowed(made, other, mine, theirs)
    calibration.write_into(lent, folder)
    return lent, likeness


COMMANDS: dict[str, Callable[..., None]] = {
    "search": search,
    "list": list_,
    "forget": forget,
    "export": export,
    "calibrate": calibrate,
}


@dataclass(frozen=True)
class Wanted:
    """The memory that a conversation is to have."""

    path: Path
    way: Way
    asked_for: bool  # by its own option; else it is that of the session, without which the session goes on


def check_memory(file: Path | None, none: bool, way: Way, session: str | None) -> Wanted | None:
    """What the options of a chat say of its memory; BadOption if they contradict each other.

    Args:
        file: of --memory.
        none: --no-memory.
        way: of --recall.
        session: that is kept, which has a memory unless `none`.
    """
    from edgesink.runtime.sessions import memory_path, session_path

    if none and file is not None:
        raise BadOption(f"--memory {file} and --no-memory", "one of the two")
    if file is not None:
        return Wanted(file, way, True)
    if session is not None and not none:
        return Wanted(memory_path(session_path(session)), way, False)
    if way == "pinned":
        raise BadOption("--recall pinned without a memory", "--memory FILE, or a --session")
    return None


def say_if_only_words(stream: Stream, model: str) -> None:
    """A hint where a search finds less than it could; BadMemory if the calibration that there is cannot be used."""
    from edgesink.memory import calibration

    if calibration.read(stream.manifest, stream.bundle) is None:
        say(f"{model} is not calibrated, so only words are searched: `edgesink memory calibrate {model}`")


@contextmanager
def remembering(chat: Chat, wanted: Wanted | None) -> Iterator[None]:
    """A conversation at a terminal with its memory: what comes back is shown before the answer, trouble when it comes.

    EdgesinkError if a memory that was asked for cannot be opened; a session goes on without its own.
    """
    from edgesink.memory import calibration
    from edgesink.memory.memory import Memory

    if wanted is None:
        yield
        return
    try:
        memory = Memory(
            wanted.path, wanted.way, on_recall=lambda recall: say(f"({recall_words(recall)})"),
            on_trouble=lambda trouble: say(f"({trouble})"),
        )  # fmt: skip
    except EdgesinkError as error:
        if wanted.asked_for:
            raise
        say(f"(nothing will come back from beyond the window: {error})")
        yield
        return
    if not memory.archive.count and calibration.find(chat.stream.manifest, chat.stream.bundle) is None:
        say(
            "(what leaves the window is remembered, and found by its own words; to be found in other words too: "
            f"edgesink memory calibrate {chat.stream.bundle})"
        )
    chat.memory = memory
    try:
        yield
    finally:
        chat.memory = None
        memory.close()


def recall_words(recall: Recall) -> str:
    """What came back, in one line."""
    said = [f"“{_short(one.passage.text)}”" for one in recall.found] + [f"“{_short(p.text)}”" for p in recall.wishes]
    return f"remembered, {recall.way}: {', '.join(said)}"


def why(recall: Recall) -> str:
    """What came back and why, a line for each passage."""
    lines = [
        f"{one.score:.2f} by {one.way}  {_line(one.passage)}" for one in recall.found
    ] + [f"standing instruction  {_line(passage)}" for passage in recall.wishes]  # fmt: skip
    lines.append(f"{recall.way}; searched in {recall.search_ms:.0f} ms, brought back in {recall.bring_ms:.0f} ms")
    return "\n".join(lines)


def _archive(file: Path) -> Archive:
    """The memory in a file, or that of a session if there is no such file."""
    from edgesink.memory.archive import Archive
    from edgesink.runtime.sessions import NAME, memory_path, session_path

    if not file.exists() and NAME.fullmatch(str(file)):
        of_session = memory_path(session_path(str(file)))
        file = of_session if of_session.exists() else file
    return Archive(file, make=False)


def _line(passage: Passage) -> str:
    when = datetime.fromtimestamp(passage.said).strftime("%Y-%m-%d %H:%M")
    wish = ", from now on" if passage.standing else ""
    return f"{passage.id:>6}  {when}  {passage.role}{wish}: {' '.join(passage.text.split())}"


def _short(text: str, most: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _as_data(passage: Passage) -> dict[str, object]:
    when = datetime.fromtimestamp(passage.said).astimezone().isoformat(timespec="seconds")
    return {
        "id": passage.id, "role": passage.role, "said": when, "standing": passage.standing, "text": passage.text,
    }  # fmt: skip
