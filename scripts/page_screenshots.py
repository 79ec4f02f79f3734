"""The pictures of the web page in docs/figures: a real conversation past the window, in dark, light and narrow.

    python scripts/page_screenshots.py [BUNDLE]

Without BUNDLE the default model is exported with a window of 508 tokens and 4 sinks, so that a few turns fill it. Needs
Chromium (apt-get install chromium).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "figures"
sys.path.append(str(ROOT / "tests"))

from web_page import Person, chromium, serving  # noqa: E402

SYSTEM = "You are a friendly guide to the stars. Answer briefly, in plain words."
QUESTIONS = (
    "Why do stars twinkle?",
    "Name three bright stars, as a list.",
    "How far away is the Moon?",
    "What is a shooting star?",
    "Why is the sky dark at night?",
    "Which planet has rings?",
    "What is a light-year?",
)
SHOTS = {"dark": (1280, 800), "light": (1280, 800), "narrow": (360, 740)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(sys.argv[1]) if len(sys.argv) > 1 else exported(Path(folder) / "smollm2-512")
        with serving(bundle) as address, chromium() as browser:
            context = browser.new_context(viewport={"width": 1280, "height": 800}, device_scale_factor=1)
            person = Person(context.new_page(), address)
            hold_conversation(person)
            for name, (width, height) in SHOTS.items():
                person.page.set_viewport_size({"width": width, "height": height})
                person.page.emulate_media(color_scheme="dark" if name == "dark" else "light")
                show(person, narrow=name == "narrow")
                person.page.screenshot(path=FIGURES / f"page_{name}.png")


def exported(out: Path) -> Path:
    """The default model with a small window."""
    from edgesink.export.bundle import export
    from edgesink.export.source import from_package
    from edgesink.models import DEFAULT_MODEL, MODELS
    from edgesink.spec import StreamSpec

    packaged = MODELS[DEFAULT_MODEL].packaged
    assert packaged is not None
    export(from_package(packaged), out, "onnx", StreamSpec.fitted(window=508), "int4")
    return out


def hold_conversation(person: Person) -> None:
    person.shorten_answers(120, temperature=0)  # the same answers in every run
    person.talk("Hello! Who are you?")
    person.page.get_by_role("button", name="New conversation").click()
    person.page.get_by_role("button", name="Add a system prompt").click()
    person.page.get_by_label("System prompt", exact=True).fill(SYSTEM)
    person.page.get_by_role("button", name="Keep").click()
    person.talk(*QUESTIONS)


def show(person: Person, narrow: bool) -> None:
    """Where what is forgotten meets what is seen; on a narrow screen the memory is open."""
    if narrow:
        person.page.get_by_text("What the model remembers").click()
    person.page.evaluate(
        """() => {
            const turn = document.querySelector('[data-fate="forgotten"] + .turn:not([data-fate="forgotten"])');
            const scroller = document.getElementById("transcript");
            scroller.scrollTop = turn ? turn.offsetTop - scroller.clientHeight / 3 : 0;
        }"""
    )
    person.page.mouse.move(0, 0)
    person.page.wait_for_timeout(300)


if __name__ == "__main__":
    main()
