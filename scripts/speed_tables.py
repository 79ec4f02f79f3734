"""Tables in Markdown and one figure of what `edgesink bench --json` has measured of several models.

    edgesink bench smollm2-135m --against llama.cpp,openvino-genai --json > small.json
    python scripts/speed_tables.py "SmolLM2 135M=small.json" "Qwen2.5-Coder 0.5B=half.json" --plot speed_sizes.png

The figure shows tokens/s of decoding and of prompts at the largest window and number of threads that all files have.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
HEADS = (
    "", "tokens/s", "edgesink is", "p50 ms", "p99", "p99 / p50", "prompt tokens/s", "edgesink is", "first token s",
    "peak MB",
)  # fmt: skip


def settings(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """(window, threads), in their order."""
    return list(dict.fromkeys((row["window"], row["threads"]) for row in rows))


def of(rows: Sequence[Row], setting: tuple[int, int]) -> list[Row]:
    """The engines of a setting, ours first."""
    return [row for row in rows if (row["window"], row["threads"]) == setting]


def prompt_speed(row: Row) -> float:
    """Tokens/s, of the fastest chunk."""
    return float(max(row["prefill_tokens_per_second"].values()))


def table(rows: Sequence[Row]) -> str:
    """The first row is what the others are compared with."""
    ours = rows[0]
    lines = [HEADS, ["---"] * len(HEADS)]
    for row in rows:
        speed, prompt, ms = row["tokens_per_second"], prompt_speed(row), row["ms"]
        is_ours = row is ours
        lines.append([
            row["label"], f"{speed:.1f}", "" if is_ours else f"x {ours['tokens_per_second'] / speed:.2f}",
            f"{ms['p50']:.2f}", f"{ms['p99']:.2f}", f"{ms['p99'] / ms['p50']:.2f}", f"{prompt:.0f}",
            "" if is_ours else f"x {prompt_speed(ours) / prompt:.2f}", f"{row['first_token_s']:.2f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(models: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Bars: a group a model, a bar an engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shared = set.intersection(*(set(settings(rows)) for rows in models.values()))
    setting = max(shared, key=lambda one: (one[1], one[0]))
    chosen = {name: of(rows, setting) for name, rows in models.items()}
    engines = dict.fromkeys(_engine(row) for rows in chosen.values() for row in rows)
    colours = {engine: f"C{place}" for place, engine in enumerate(engines)}
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 3.9), layout="constrained")
    for panel, title in zip(panels, ("decoding", "reading a prompt"), strict=True):
        for number, rows in enumerate(chosen.values()):
            speeds = [row["tokens_per_second"] if title == "decoding" else prompt_speed(row) for row in rows]
            for place, (row, speed) in enumerate(zip(rows, speeds, strict=True)):
                bars = panel.bar(number + 0.2 * place, speed / speeds[0], 0.18, color=colours[_engine(row)])
                panel.bar_label(bars, [f"{speed:.0f}"], fontsize=7)
        panel.set_xticks([number + 0.1 * (len(rows) - 1) for number, rows in enumerate(chosen.values())], list(chosen))
        panel.set_ylabel("relative to edgesink")
        panel.set_title(f"{title}: tokens/s on the bars", fontsize=10)
    marks = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    figure.legend(marks, list(colours), loc="outside lower center", ncols=len(colours), fontsize=8)
    figure.suptitle(f"window {setting[0]}, {setting[1]} threads")
    figure.savefig(path, dpi=110)


def _engine(row: Row) -> str:
    """Without the quantisation of the file, unless another was made of it: "llama.cpp Q4_0, half at a time"."""
    return str(row["label"]).replace(" Q4_1,", ", the same file,").replace(" Q4_K_M,", ", the same file,")


def main() -> None:
    """Print the tables; draw if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="NAME=FILE")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    named = [one.rpartition("=") for one in options.models]
    models = {name: json.loads(Path(file).read_text(encoding="utf-8"))["figures"] for name, _, file in named}
    for name, rows in models.items():
        for window, threads in settings(rows):
            own = of(rows, (window, threads))
            print(f"**{name}, window {window}, {threads} thread{'s' * (threads > 1)}** ({own[0]['rounds']} rounds)\n")
            print(table(own) + "\n")
    if options.plot:
        draw(models, options.plot)


if __name__ == "__main__":
    main()
