"""A person at the web page: headless Chromium, and what one does with the page. For tests and for the screenshots."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, Route, sync_playwright
from serving import start_process

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ANSWER_MS = 60_000


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of this machine; playwright's own is never downloaded."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def serving(bundle: Path, *options: str, **environment: str) -> Iterator[str]:
    """`edgesink serve` of a bundle on a free port; the address of its page."""
    process, url = start_process(bundle, *options, **environment)
    with process:
        try:
            yield f"{url}/"
        finally:
            process.terminate()


class Person:
    """Someone who uses the page, and what they can see there."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.complaints: list[str] = []  # of the browser: errors of scripts, and what the page's policy forbade
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        page.goto(address)
        self.wait_for_page()

    def wait_for_page(self) -> None:
        """Until it knows its server and has opened a conversation. (Waiting for a function would need `eval`, which the
        page forbids.)"""
        self.page.locator("#memory-words", has_text=re.compile(".")).wait_for(state="attached")

    def reload(self) -> None:
        self.page.reload()
        self.wait_for_page()

    def shorten_answers(self, tokens: int, **options: float) -> None:
        """Answers of at most `tokens`: a small model may go on and on. `options` are sent with each request too."""

        def changed(route: Route) -> None:
            asked = route.request.post_data_json or {}
            route.continue_(post_data=json.dumps({**asked, "max_tokens": tokens, **options}))

        self.page.route("**/v1/chat/completions", changed)

    def ask(self, text: str) -> None:
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")
        self.page.get_by_role("button", name="Stop").wait_for()

    def wait(self) -> None:
        """Until the answer has ended and is kept."""
        self.page.get_by_role("button", name="Send").wait_for(timeout=ANSWER_MS)
        self.page.locator(".turn:last-child .tools").wait_for()

    def talk(self, *questions: str) -> None:
        for text in questions:
            self.ask(text)
            self.wait()

    def wait_for_text(self) -> None:
        """Until the newest answer has begun."""
        self.page.locator(".turn:last-child .answer", has_text=re.compile(".{20}")).wait_for(timeout=ANSWER_MS)

    @property
    def questions(self) -> list[str]:
        return self.page.locator(".question").all_text_contents()

    @property
    def answers(self) -> list[str]:
        return self.page.locator(".answer").all_text_contents()

    @property
    def fates(self) -> list[str]:
        """What the page says became of each turn: "seen", "partly", "forgotten" …"""
        return [turn.get_attribute("data-fate") or "" for turn in self.page.locator(".turn").all()]

    @property
    def numbers(self) -> dict[str, int]:
        """The numbers below the ring."""
        names = self.page.locator("#numbers dt").all_text_contents()
        counts = self.page.locator("#numbers dd b").all_text_contents()
        return {name: int(count.replace(",", "")) for name, count in zip(names, counts, strict=True)}

    @property
    def conversations(self) -> list[str]:
        return self.page.locator("#list .choose").all_text_contents()

    @property
    def focus(self) -> str:
        """The accessible name, or else the id, of what has the focus."""
        return self.page.evaluate(
            """() => {
                const at = document.activeElement;
                return at.getAttribute("aria-label") ?? at.labels?.[0]?.textContent ?? (at.innerText.trim() || at.id);
            }"""
        )
