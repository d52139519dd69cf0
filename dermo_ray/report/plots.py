"""Curves as inline SVG that takes its colours and its font from the page around it.

matplotlib draws with placeholder colours, which are then replaced by CSS variables, so that one drawing serves light
and dark pages. Every series has a dash pattern of its own beside its colour, and its first and last value in the
legend, which the page writes as text.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dermo_ray.report.metrics import FloatArray, Series, read_metrics

SERIES_COLOURS = 8
"""The page defines `--series-1` to `--series-8`; further series begin again at the first, with another dash."""

_DASHES: tuple[tuple[int, ...], ...] = ((), (6, 2), (2, 2), (6, 2, 2, 2), (10, 3))
_SERIES = [f"#0000a{number}" for number in range(1, SERIES_COLOURS + 1)]
_INK, _RULE, _CARD = "#0000b1", "#0000b2", "#0000b3"
_VARIABLES = {colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, 1)} | {
    _INK: "var(--muted)",
    _RULE: "var(--rule)",
    _CARD: "var(--card)",
}
Points = tuple[Sequence[float], Sequence[float]]
"""x and y of a line's points, [n] each."""

_SMOOTHED_FROM = 60  # points; fewer are drawn as they are

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read out, found and set in the page's font
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "path.simplify_threshold": 0.5,
}


@dataclass(frozen=True)
class LegendEntry:
    """How one series looks, and where it began and ended."""

    name: str
    colour: str
    dashes: str
    """As SVG's `stroke-dasharray`; empty for a solid line."""
    filled: bool
    """Whether it is an area of a stack; the first is the lowest."""
    first: float
    last: float


@dataclass(frozen=True)
class Chart:
    """One drawing and what it says in words."""

    title: str
    svg: Markup
    legend: tuple[LegendEntry, ...]


@dataclass(frozen=True)
class Panel:
    """Which keys one chart shows, and how."""

    title: str
    unit: str
    keys: str
    """A regular expression for whole keys."""
    draw: Callable[[Axes, Sequence[Series]], None]


def curves(path: Path) -> list[Chart]:
    """A chart for each panel that the `metrics.jsonl` at `path` has keys for."""
    series = read_metrics(path)
    charts = []
    for panel in PANELS:
        chosen = {key: values for key, values in series.items() if re.fullmatch(panel.keys, key)}
        if chosen:
            charts.append(_chart(panel, _total_first(chosen)))
    return charts


def _total_first(series: Mapping[str, Series]) -> dict[str, Series]:
    return dict(sorted(series.items(), key=lambda item: not item[0].endswith("/total")))


def _chart(panel: Panel, series: Mapping[str, Series]) -> Chart:
    legend = tuple(
        LegendEntry(
            name=key.rpartition("/")[2].replace("_", " "),
            colour=_VARIABLES[_colour(index)],
            dashes=" ".join(map(str, _dashes(index))) if panel.draw is _lines else "",
            filled=panel.draw is _stacked,
            first=float(values.values[0]),
            last=float(values.values[-1]),
        )
        for index, (key, values) in enumerate(series.items())
    )

    def draw(axes: Axes) -> None:
        panel.draw(axes, list(series.values()))
        axes.set_xlabel("step")
        axes.set_ylabel(panel.unit)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.margins(x=0.01)

    label = f"Chart by step: {panel.title}. The first and last values are in the text below."
    return Chart(panel.title, _drawn(draw, label, salt=repr(legend)), legend)


def line_chart(title: str, lines: Mapping[str, Points], x: str, y: str, *, diagonal: bool = False) -> Chart:
    """A chart of `lines`, name -> (x, y) of its points; `x` and `y` name the axes, which both run from 0 to 1 at most.

    `diagonal` draws the line of equal x and y.
    """
    legend = tuple(
        LegendEntry(
            name, _VARIABLES[_colour(index)], " ".join(map(str, _dashes(index))), False, float(ys[0]), float(ys[-1])
        )
        for index, (name, (_, ys)) in enumerate(lines.items())
    )

    def draw(axes: Axes) -> None:
        if diagonal:
            axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, dashes=(1, 2))
        for index, (xs, ys) in enumerate(lines.values()):
            marker = "o" if diagonal or len(ys) == 1 else None
            axes.plot(
                xs, ys, color=_colour(index), linewidth=1.6, dashes=_dashes(index) or (None, None), marker=marker, ms=3
            )
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1 if diagonal else None)

    label = f"Chart: {title}; {y} over {x}. The first and last values are in the text below."
    return Chart(title, _drawn(draw, label, salt=f"{title}{lines!r}"), legend)


def _drawn(draw: Callable[[Axes], None], label: str, salt: str) -> Markup:
    """One set of axes as an element of a page; `salt` keeps the names of its parts apart from other drawings'."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": salt}):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        draw(figure.add_subplot())
        buffer = StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), label)


def _colour(index: int) -> str:
    return _SERIES[index % SERIES_COLOURS]


def _dashes(index: int) -> tuple[int, ...]:
    return _DASHES[(index + index // SERIES_COLOURS) % len(_DASHES)]


def _lines(axes: Axes, series: Sequence[Series]) -> None:
    for index, (steps, values) in enumerate(series):
        width = 2.2 if index == 0 else 1.4
        smooth = len(values) >= _SMOOTHED_FROM
        if smooth:
            axes.plot(steps, values, color=_colour(index), linewidth=0.8, alpha=0.3)
        # a single point has no line: mark it
        axes.plot(
            steps,
            _running_mean(values, len(values) // 20) if smooth else values,
            color=_colour(index),
            linewidth=width,
            dashes=_dashes(index) or (None, None),
            marker="o" if len(values) == 1 else None,
        )


def _stacked(axes: Axes, series: Sequence[Series]) -> None:
    steps = np.unique(np.concatenate([entry.steps for entry in series]))
    # a part that a step did not report took no time in it
    parts = [np.zeros_like(steps) for _ in series]
    for part, entry in zip(parts, series, strict=True):
        part[np.searchsorted(steps, entry.steps)] = entry.values
    axes.stackplot(steps, parts, colors=[_colour(index) for index in range(len(parts))], edgecolor=_CARD, linewidth=1.2)
    axes.set_ylim(bottom=0)


def _running_mean(values: FloatArray, half_width: int) -> FloatArray:
    """Mean over the points at most `half_width` away, fewer at the ends."""
    window = np.ones(2 * half_width + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def _inline(svg: str, label: str) -> Markup:
    """The drawing, called `label`, as an element: no prologue, no size, the page's colours, no name that clashes."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # matplotlib's names of groups, the same in every drawing
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{Markup.escape(label)}"', 1))


PANELS: tuple[Panel, ...] = (
    Panel("Reward and its terms", "mean over completions", r"reward/.+", _lines),
    Panel("Loss", "loss", r"(.+/)?loss(/.+)?", _lines),
    Panel("Validation loss", "loss", r"val_loss(/.+)?", _lines),
    Panel("Drift from the sampling policy", "KL", r"(.+[/_])?kl([/_].+)?", _lines),
    Panel("Clipped tokens", "share of tokens", r"(.+/)?clip_fraction(_low|_high)?", _lines),
    Panel("Throughput", "tokens per second", r"(.+/)?tokens_per_second(.*)|(.*)tokens/s", _lines),
    Panel("Staleness", "policy versions", r"(.+[/_])?staleness([/_].+)?", _lines),
    Panel("Where a step's time goes", "seconds, stacked", r"seconds/(?!step$).+", _stacked),
)
