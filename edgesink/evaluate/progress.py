"""A long measurement that can be interrupted: its curves and streams on disk.

Owns the progress file (JSON, replaced atomically) and the session files it points to. A file of
another measurement is refused. The session is written first and the one before it removed last, so whatever moment
the power goes, the file names a session that exists.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from edgesink.errors import BadOption
from edgesink.evaluate.perplexity import Curve
from edgesink.evaluate.scoring import Scorer
from edgesink.files import atomic_write

FORMAT = 1
SAVE_SECONDS = 60.0


class Progress:
    """The curves of one measurement, saved in `path`; None keeps them in memory only.

    Args:
        path: the progress file; it need not exist.
        identity: what decides the numbers; a file with another one is refused.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, identity
        self.curves: dict[str, Curve] = {}
        self._sessions: dict[str, str] = {}
        self._saved_at = time.monotonic()
        if path is not None and path.is_file():
            self._load(path)

    def start(self, curve: Curve, scorer: Scorer | None) -> Curve:
        """The curve as far as it came before, its stream restored; else `curve` itself, its stream at the start."""
        from edgesink.runtime.session_file import read_session

        known = self.curves.setdefault(curve.label, curve)
        session = self._sessions.get(known.label)
        if scorer is not None:
            scorer.reset(known.sinks)
        if self.path is not None and scorer is not None and session is not None:
            saved = read_session(self.path.with_name(session), scorer.manifest, scorer.state())
            scorer.load_state(saved.state, saved.position, saved.sinks)
        return known

    def due(self) -> bool:
        """It is time to save."""
        return self.path is not None and time.monotonic() - self._saved_at > SAVE_SECONDS

    def save(self, curve: Curve, scorer: Scorer | None, done: bool = False) -> None:
        """Write everything; the stream too, unless the curve is `done`."""
        from edgesink.runtime.session_file import write_session

        if self.path is None:
            return
        before = self._sessions.pop(curve.label, None)
        if scorer is not None and not done:
            name = f"{self.path.name}.{len(self._sessions)}-{curve.position}.state"
            write_session(self.path.with_name(name), scorer.manifest, scorer.position, curve.sinks, scorer.state())
            self._sessions[curve.label] = name
        curves = {label: dataclasses.asdict(curve) for label, curve in self.curves.items()}
        data = {"format": FORMAT, "identity": self.identity, "curves": curves, "sessions": self._sessions}
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(data), encoding="utf-8")
        if before is not None and before != self._sessions.get(curve.label):
            self.path.with_name(before).unlink(missing_ok=True)
        self._saved_at = time.monotonic()

    def _load(self, path: Path) -> None:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            same = data["format"] == FORMAT and data["identity"] == self.identity
            self.curves = {label: Curve(**curve) for label, curve in data["curves"].items()}
            self._sessions = data["sessions"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadOption(f"{path} is not a progress file ({error})", "", "remove it, or name another file") from None
        if not same:
            raise BadOption(
                f"{path} belongs to another measurement ({data['identity']})", str(self.identity), "name another file"
            )
