"""The results of `bench` as text and as data, with the machine and the share of its memory bandwidth in use."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgesink.bench.far import Place
from edgesink.bench.rounds import PERCENTILES, Figures
from edgesink.manifest import Manifest

BANDWIDTH_BYTES = 1 << 28  # read by each thread, far more than caches hold
HEADS = ("tokens/s", "ours", *PERCENTILES, "prefill/s", "ours", "first s", "peak MB", "perplexity")


@dataclass(frozen=True)
class BenchReport:
    """All results of `bench`; in every setting the first row is edgesink's."""

    figures: Sequence[Figures]
    bundles: Mapping[int, Manifest]  # ours, by window
    places: Sequence[Place]

    @cached_property
    def bandwidth(self) -> dict[int, float]:
        """Bytes/s that the machine reads, by threads; measured on first use."""
        return {threads: read_bandwidth(threads) for threads in sorted({f.setting.threads for f in self.figures})}

    def share_of_bandwidth(self, ours: Figures) -> float:
        """The share of memory bandwidth that edgesink uses: it reads a step's weights and the state once per token."""
        return (
            (self.read_weight_bytes(ours) + self.state_bytes(ours))
            * ours.tokens_per_second
            / self.bandwidth[ours.setting.threads]
        )

    def read_weight_bytes(self, ours: Figures) -> int:
        """Of the weights those that a step reads: of an embedding that is no head one row."""
        manifest = self.bundles[ours.setting.window]
        return manifest.weight_bytes if manifest.step_weight_bytes is None else manifest.step_weight_bytes

    def state_bytes(self, ours: Figures) -> int:
        """State of the stream that was timed."""
        return ours.state_bytes or self.bundles[ours.setting.window].state_bytes

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "machine": machine(),
            "read_bandwidth": {str(threads): rate for threads, rate in self.bandwidth.items()},
            "bundles": {
                str(window): {"weights": manifest.weight_bytes, "state": manifest.state_bytes}
                for window, manifest in self.bundles.items()
            },
            "figures": [row.as_data() for row in self.figures],
            "positions": [dataclasses.asdict(place) for place in self.places],
        }

    def as_text(self) -> str:
        """A block of lines per setting; "ours" is edgesink's speed over that of the row."""
        lines = ["; ".join(f"{name} {value}" for name, value in machine().items())]
        lines += sorted({f"{row.label}: {row.version}" for row in self.figures})
        for setting in dict.fromkeys(row.setting for row in self.figures):
            rows = [row for row in self.figures if row.setting == setting]
            lines += ["", f"{setting}, median of {len(rows[0].steps_ms)}; ms per token, tokens/s", *_table(rows)]
            share, gigabytes = self.share_of_bandwidth(rows[0]), self.bandwidth[setting.threads] / 1e9
            weights, state = self.read_weight_bytes(rows[0]) / 1e6, self.state_bytes(rows[0]) / 1e6
            if any(row.joules for row in rows):
                used = ", ".join(f"{row.label} {np.median(row.joules):.3f}" for row in rows if row.joules)
                lines.append(f"joules per token, of all processors: {used}")
            lines.append(
                f"edgesink reads {weights:.1f} MB of weights and {state:.1f} MB of state per token: {share:.0%} of the "
                f"{gigabytes:.1f} GB/s of memory bandwidth"
            )
        if self.places:
            first = self.places[0]
            lines += ["", f"{'position':>10}{'p50 ms':>9}{'p99':>9}{'ratio':>9}"]
            lines += [
                f"{p.position:>10}{p.p50_ms:>9.2f}{p.p99_ms:>9.2f}{'x':>4}{p.p50_ms / first.p50_ms:>5.3f}"
                for p in self.places
            ]
        return "\n".join(lines)


def _table(rows: Sequence[Figures]) -> list[str]:
    width = max(len(row.label) for row in rows)
    lines = [" " * width + "".join(f"{head:>11}" for head in HEADS)]
    return lines + [f"{row.label:<{width}}" + "".join(f"{cell:>11}" for cell in _cells(row, rows[0])) for row in rows]


def _cells(row: Figures, ours: Figures) -> list[str]:
    speed, prefill = row.tokens_per_second, row.prefill_per_second[1]
    return [
        f"{speed:.1f}",
        f"x {ours.tokens_per_second / speed:.2f}",
        *(f"{row.percentile(share):.2f}" for share in PERCENTILES.values()),
        f"{prefill:.0f}",
        f"x {ours.prefill_per_second[1] / prefill:.2f}",
        f"{np.median(row.first_token_s):.2f}",
        f"{np.median(row.peak_bytes) / 1e6:.0f}",
        f"{row.perplexity:.3f}" if row.perplexity else "",
    ]


def read_bandwidth(threads: int) -> float:
    """Bytes/s that this many threads read from memory together: the best of five."""
    arrays = [np.ones(BANDWIDTH_BYTES // 4, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            list(pool.map(np.max, arrays))
            seconds.append(time.perf_counter() - began)
    return threads * BANDWIDTH_BYTES / min(seconds)


def machine() -> dict[str, Any]:
    """The machine that ran the benchmark."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        names = [
            line.partition(":")[2].strip() for line in information.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
