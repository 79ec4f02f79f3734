"""Figures as PNG files: curves, bars and maps; numbers in, a file out. Needs matplotlib, opens no window."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgesink.errors import MissingPackage
from edgesink.files import atomic_write

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Legend -> (x, y)."""

DPI = 100
LETTERS_AN_INCH = 16  # of a title of maps, about


def curves(path: Path, lines: Series, x: str, y: str, title: str, log: bool = True, dots: Series | None = None) -> None:
    """Lines over a common x axis, with pale dots in the colour of the line of that name; `log` is of the y axis."""
    from matplotlib.ticker import FuncFormatter

    figure, axes = _figure(7.2, 4.2)
    for label, (xs, ys) in lines.items():
        (line,) = axes.plot(xs, ys, label=label, linewidth=1.4, marker="." if len(xs) < 10 else None)
        if dots and label in dots:
            axes.plot(*dots[label], ".", color=line.get_color(), alpha=0.35, markersize=4)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        low, high = axes.get_ylim()
        if high < 10 * low:  # no room for powers of ten
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    _save(figure, path)


def maps(path: Path, arrays: np.ndarray, title: str) -> None:
    """Square maps [L, H, n, n], a row a layer and a column a head; colours on a logarithmic scale from 1e-4 to 1."""
    layers, heads = arrays.shape[:2]
    figure, axes = _figure(0.5 * heads + 0.6, 0.5 * layers + 0.8, layers, heads)
    for layer in range(layers):
        for head in range(heads):
            cell = axes[layer][head]
            cell.imshow(
                np.log10(np.maximum(arrays[layer, head], 1e-4)),
                cmap="viridis",
                vmin=-4,
                vmax=0,
                interpolation="nearest",
            )
            cell.set_xticks([])
            cell.set_yticks([])
            if layer == 0:
                cell.set_title(f"{head}", fontsize=7)
        axes[layer][0].set_ylabel(f"{layer}", fontsize=7, rotation=0, labelpad=8, verticalalignment="center")
    figure.suptitle(textwrap.fill(title, int(LETTERS_AN_INCH * figure.get_figwidth())), fontsize=8)
    _save(figure, path)


def _figure(width: float, height: float, rows: int = 0, columns: int = 0) -> tuple[Any, Any]:
    """A figure that no screen is needed for, and its axes: one, or [rows][columns]."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackage("a figure needs matplotlib", "", "pip install 'edgesink[eval]'") from None
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False) if rows else figure.subplots()


def _save(figure: Any, path: Path) -> None:
    """In 256 colours, a fraction of the size; written atomically."""
    from PIL import Image  # matplotlib brings it

    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]).quantize(256)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)
