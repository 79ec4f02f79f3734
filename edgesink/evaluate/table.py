"""Perplexity curves as a table for people, as data for programs and as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgesink.evaluate.perplexity import Curve, Sampling, paired_ratio


def as_table(curves: Sequence[Curve], sampling: Sampling) -> str:
    """One line per curve: perplexity of all tokens, after the first eviction, and compared with recomputation."""
    width, capacity = max(len(curve.label) for curve in curves), sampling.capacity
    lines = [
        f"{'':<{width}}  {'tokens':>9}  {'scored':>9}  {'ppl':>9}  {'ppl past ' + str(capacity):>14}  vs recompute"
    ]
    for curve in curves:
        late = curve.perplexity_from(capacity)
        ratio = _ratio(curve, curves, sampling)
        compared = f"x {ratio[0]:.3f} ± {ratio[1]:.3f} ({ratio[2]} tokens)" if ratio else ""
        lines.append(
            f"{curve.label:<{width}}  {curve.position:>9}  {sum(curve.counts):>9}  {curve.perplexity:>9.3f}"
            f"  {late:>14.3f}  {compared}".rstrip()
        )
    return "\n".join(lines)


def as_data(curves: Sequence[Curve], sampling: Sampling) -> dict[str, Any]:
    """The same and the rows of every curve, fit for JSON: what was not scored is null."""
    return {"capacity": sampling.capacity, "curves": [_curve_data(curve, curves, sampling) for curve in curves]}


def draw(path: Path, curves: Sequence[Curve], capacity: int) -> None:
    """Running perplexity on a log axis, like the paper's figure 3; the dots are single rows."""
    from edgesink.evaluate import plots

    lines, dots = {}, {}
    for curve in curves:
        ends = [*((row + 1) * curve.every for row in range(len(curve.nats) - 1)), curve.position]
        lines[curve.label] = ends, curve.running()
        dots[curve.label] = ends, curve.rows()
    plots.curves(path, lines, "tokens read", "perplexity so far", f"capacity {capacity}", dots=dots)


def _curve_data(curve: Curve, curves: Sequence[Curve], sampling: Sampling) -> dict[str, Any]:
    ratio = _ratio(curve, curves, sampling)
    return {
        "label": curve.label,
        "mode": curve.mode,
        "sinks": curve.sinks,
        "positions": curve.positions,
        "tokens": curve.position,
        "scored": sum(curve.counts),
        "perplexity": _finite(curve.perplexity),
        "perplexity_past_capacity": _finite(curve.perplexity_from(sampling.capacity)),
        "vs_recompute": ratio and dict(zip(("ratio", "standard_error", "tokens"), ratio, strict=True)),
        "every": curve.every,
        "row_perplexity": [_finite(x) for x in curve.rows()],
        "running_perplexity": [_finite(x) for x in curve.running()],
        "row_seconds": curve.seconds,
        "row_resident_bytes": curve.resident,
    }


def _ratio(curve: Curve, curves: Sequence[Curve], sampling: Sampling) -> tuple[float, float, int] | None:
    """Compared with recomputation on its sampled tokens, if both scored some."""
    baseline = next((other for other in curves if other.mode == "recompute"), None)
    if baseline is None or baseline is curve or min(len(curve.sample), len(baseline.sample)) < 2 * sampling.run:
        return None
    return paired_ratio(curve, baseline, sampling.run)


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
