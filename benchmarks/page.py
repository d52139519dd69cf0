"""The page of measured figures, from the committed results: `python -m benchmarks.page`.

Writes `docs/benchmarks.md` and the plots beside it. Invariant: every figure on the page is read from a file of
`benchmarks/results`; what has no file has no line.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.rows import SECTIONS, Result

RESULTS = Path("benchmarks/results")
PAGE = Path("docs/benchmarks.md")
PLOTS = Path("docs/images/benchmarks")

_INTRODUCTION = """# Benchmarks

Every figure here is read from a file of `benchmarks/results`, which holds the command, the machine, the versions and
the seeds; `python -m benchmarks.page` makes this page from them. What is compared was measured in turns in one run. The
machine is small, two cores without a GPU, so the ratios say more than the times. Nothing was measured on a GPU:
`python -m benchmarks.gpu` is ready for one, and untried there.
"""


def main() -> None:
    results = committed()
    PLOTS.mkdir(parents=True, exist_ok=True)
    for name, draw in PLOTTED.items():
        if name in results:
            figure = Figure(figsize=(6.4, 2.8), layout="constrained")
            axes = figure.subplots()
            draw(results[name], axes)
            axes.spines[["top", "right"]].set_visible(False)
            with matplotlib.rc_context({"svg.hashsalt": name}):  # the same figures make the same file
                figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})
    PAGE.write_text(page(results))
    print(PAGE)


def committed() -> dict[str, Result]:
    """The results by the name of their benchmark."""
    return {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}


def page(results: Mapping[str, Result]) -> str:
    """The page, from results by the name of their benchmark."""
    parts = [_INTRODUCTION]
    for name, (title, rows) in SECTIONS.items():
        if name not in results:
            continue
        lines = "\n".join(f"| {' | '.join(row)} |" for row in rows(results[name]))
        parts.append(
            f"## {title}\n\n`{results[name]['command']}`\n\n| | measured | wanted |\n| --- | --- | --- |\n{lines}\n"
        )
        if name in PLOTTED:
            parts.append(f"![{title}](images/benchmarks/{name}.svg)\n")
    return "\n".join(parts)


def _plot_demo(result: Result, axes: Axes) -> None:
    for seed in result["seeds"]:
        reward = seed["reward_heldout"]
        axes.plot([reward["sft"], reward["mavic"]], [seed["seed"]] * 2, color="tab:blue", marker="o", markevery=[1])
        axes.plot(reward["sft"], seed["seed"], color="tab:gray", marker="o")
    axes.set(xlabel="held-out reward: fine-tuned (grey), then MAVIC (blue)", ylabel="seed", ylim=(-0.5, None))
    axes.set_yticks([seed["seed"] for seed in result["seeds"]])


def _plot_prepare(result: Result, axes: Axes) -> None:
    speeds = result["median_images_per_second"]
    axes.barh(list(speeds), list(speeds.values()))
    axes.set(xlabel="images/s")


def _plot_consistency(result: Result, axes: Axes) -> None:
    found = {f"seed {seed['seed']}": seed["difference"] for seed in result["seeds"]} | {"all": result["all_seeds"]}
    for place, (low, high) in enumerate(change["ci95"] for change in found.values()):
        axes.plot([low, high], [place, place], color="tab:blue", marker="|")
    axes.plot([change["difference"] for change in found.values()], range(len(found)), "o", color="tab:blue")
    axes.axvline(0, color="tab:gray", linewidth=1)
    axes.set(xlabel="change of agreement with the true morphology, and its 95 % interval")
    axes.set_yticks(range(len(found)), list(found))


def _plot_overlap(result: Result, axes: Axes) -> None:
    names = list(result["figures"])
    axes.barh(names, [result["figures"][name]["samples_per_second"] for name in names])
    axes.set(xlabel="samples/s")


def _plot_scaling(result: Result, axes: Axes) -> None:
    labels = [f"{place}. workers: {phase['workers']}" for place, phase in enumerate(result["phases"], 1)]
    axes.barh(labels[::-1], [phase["groups_per_second"] for phase in result["phases"]][::-1])
    axes.set(xlabel="groups/s")


PLOTTED: Mapping[str, Callable[[Result, Axes], None]] = {
    "demo_phantoms": _plot_demo,
    "prepare": _plot_prepare,
    "consistency": _plot_consistency,
    "overlap": _plot_overlap,
    "scaling": _plot_scaling,
}


if __name__ == "__main__":
    main()
