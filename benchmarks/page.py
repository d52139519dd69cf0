"""The page of measured figures, from the committed results: `python -m benchmarks.page`.

Writes `docs/benchmarks.md` and the plots beside it. Invariant: every figure on the page is read from a file of
`benchmarks/results`; what has no file has no line.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path("benchmarks/results")
PAGE = Path("docs/benchmarks.md")
PLOTS = Path("docs/images/benchmarks")

Result = dict[str, Any]
Row = tuple[str, str, str]
"""What was measured, the figure, and what it should be."""

_INTRODUCTION = """# Benchmarks

Every figure here is read from a file of `benchmarks/results`, which holds the command, the machine, the versions and
the seeds; `python -m benchmarks.page` makes this page from them. What is compared was measured in turns in one run. The
machine is small, two cores without a GPU, so the ratios say more than the times. Nothing was measured on a GPU.
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


def _demo(result: Result) -> list[Row]:
    rows = []
    for seed in result["seeds"]:
        reward, valid = seed["reward_heldout"], seed["format_valid"]
        low, high = reward["ci95"]
        rows += [
            (f"seed {seed['seed']}: held-out reward, difference", f"{reward['diff']:+.3f} [{low:+.3f}, {high:+.3f}]",
             "at least +0.05"),
            (f"seed {seed['seed']}: greedy reward, difference", f"{seed['reward_greedy']['diff']:+.3f}", "not below 0"),
            (f"seed {seed['seed']}: valid completions, after sft and after mavic",
             f"{valid['sft']:.3f}, {valid['mavic']:.3f}", "at least 0.98, 0.99"),
            (f"seed {seed['seed']}: seconds, peak memory",
             f"{sum(seed['seconds'].values()):.0f} s, {seed['peak_rss_gib']:.1f} GiB", "at most 900 s, 12 GiB"),
        ]  # fmt: skip
    return rows


def _demo_on_real_images(result: Result) -> list[Row]:
    seed = result["seeds"][0]
    balanced, valid = seed["balanced_accuracy"], seed["format_valid"]
    low, high = balanced["ci95"]
    both = f"{balanced['sft']:.3f}, {balanced['mavic']:.3f}"
    return [
        ("balanced accuracy over seven classes, after sft and after mavic", both, "above chance, 0.143"),
        ("difference", f"{balanced['diff']:+.3f} [{low:+.3f}, {high:+.3f}]", ""),
        ("valid completions, after sft and after mavic", f"{valid['sft']:.3f}, {valid['mavic']:.3f}", ""),
    ]


def _adapter_parity(result: Result) -> list[Row]:
    measured = f"{result['equal']} of {result['prompts']}"
    return [("greedy answers of transformers and of stock vLLM that are equal", measured, "at least 95 %")]


def _prepare(result: Result) -> list[Row]:
    memory = ", ".join(f"{gib:g} GiB for {int(size):,} images" for size, gib in result["peak_memory_gib"].items())
    plain, same = result["beside_plain_code"], result["beside_the_same_code"]
    return [
        ("share of a loop's speed times the cores, plain code", f"{plain['share_of_loop_times_cores']:.2f}",
         "at least 0.8"),
        ("times the speed of `datasets.map`, plain code", f"{plain['times_datasets_map']:.2f}", "at least 1.3"),
        ("share of a loop's speed times the cores, the same code", f"{same['share_of_loop_times_cores']:.2f}", ""),
        ("times the speed of `datasets.map`, the same code", f"{same['times_datasets_map']:.2f}", ""),
        ("peak memory", memory, "at most 3 GiB"),
    ]  # fmt: skip


def _duplicates(result: Result) -> list[Row]:
    times = [
        (kind, run["seconds"]) for kind, runs in result["components"].items() for run in runs if run["distance"] == 2
    ]
    seconds = ", ".join(f"{seconds:g} s ({kind.replace('_', ' ')})" for kind, seconds in times)
    equal = "equal" if result["brute_force"]["equal"] else "different"
    return [
        (f"{result['hashes']:,} hashes at distance 2", seconds, "at most 60 s"),
        (f"pairs beside brute force on {result['brute_force']['hashes']:,}", equal, "equal"),
    ]


def _reward(result: Result) -> list[Row]:
    slowest = max(result["parse_100_kB_ms"].values())
    return [
        ("completions scored by rule on one core", f"{result['completions_per_second']['one_by_one']:,}/s", "5,000/s"),
        ("slowest completion of 100 kB, parsed", f"{slowest:g} ms", "under 10 ms"),
    ]


def _concepts(result: Result) -> list[Row]:
    separated = ", ".join(f"{found['auroc']:.3f} ({kind})" for kind, found in result["consistency"].items())
    return [
        ("training", f"{result['seconds']:g} s", "at most 300 s"),
        ("dermoscopic: mean field accuracy", f"{result['derm7pt_mean_field_accuracy']['mean']:.3f}", "at least 0.9"),
        ("clinical: mean AUROC", f"{result['skincon_mean_auroc']['mean']:.3f}", "at least 0.95"),
        ("true from shuffled pairs by consistency, AUROC", separated, "at least 0.95"),
    ]


def _consistency(result: Result) -> list[Row]:
    def row(name: str, found: Result) -> Row:
        low, high = found["ci95"]
        change = f"{found['without']:.3f} to {found['with']:.3f}, {found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        return f"{name}: agreement with the true morphology, without and with", change, "interval above 0"

    seeds = [row(f"seed {seed['seed']}", seed["difference"]) for seed in result["seeds"]]
    return [*seeds, row("all seeds", result["all_seeds"])]


def _overlap(result: Result) -> list[Row]:
    worst = max(mode["accounting_error"] for mode in result["figures"].values())
    speedups = [(f"samples/s at {name}, times those at 0", f"{times:.2f}") for name, times in result["speedup"].items()]
    return [
        *((what, times, "at least 1.6" if what.endswith("=1, times those at 0") else "") for what, times in speedups),
        ("busy time and named waits, against wall time", f"within {worst:.2%}", "within 2 %"),
    ]


def _publish(result: Result) -> list[Row]:
    rows = []
    for name, found in result["figures"].items():
        seconds = f"{found['publish_to_loaded_on_all_seconds']['median']:.3f} s"
        wanted = "at most 0.3 s" if name == "tiny" else "at most 3 times"
        rows.append(
            (f"{name}: published and loaded", f"{seconds}, {found['times_plain']:.1f} times plain files", wanted)
        )
    return rows


def _logprobs(result: Result) -> list[Row]:
    longest = max(row["positions"] for row in result["measured"])
    whole, chunked = (
        next(row for row in result["measured"] if row["positions"] == longest and row["chunked"] is way)
        for way in (False, True)
    )
    memory = f"{chunked['peak_gib']:g} GiB, {whole['peak_gib']:g} GiB"
    return [
        (
            f"peak memory of {longest:,} positions over {result['vocabulary']:,} tokens, in chunks and at once",
            memory,
            "",
        )
    ]


def _scaling(result: Result) -> list[Row]:
    speeds = ", ".join(f"{phase['workers']}: {phase['groups_per_second']:g}" for phase in result["phases"])
    return [("groups/s by workers", speeds, "follows the workers"), ("ledger", result["ledger"], "nothing lost")]


def _cct(result: Result) -> list[Row]:
    every, several = result["all"], len(result["runs"]) > 1
    methods = every["methods"]
    found = {(pair["before"], pair["after"]): pair for pair in every["differences"]}
    over_greedy, over_vote, early = (
        found[pair] for pair in (("greedy", "cct"), ("majority", "cct"), ("cct", "cct_early"))
    )
    accuracies = ", ".join(f"{name} {measured['accuracy']['mean']:.1%}" for name, measured in methods.items())
    selective = methods["cct"]["selective"]
    return [
        (f"accuracy over {every['items']:,} questions" + (f" of {len(result['runs'])} runs" if several else ""),
         accuracies, ""),
        ("CCT over one greedy answer", _points(over_greedy["comparison"]["difference"]),
         "at least +2 points, interval above 0"),
        ("CCT over a majority vote of as many samples", _points(over_vote["comparison"]["difference"]), "not below 0"),
        ("CCT at 80 % coverage over all", _points(selective["gain"]), "at least +3 points"),
        ("stopping early over CCT", _points(early["comparison"]["difference"]), "no loss outside the interval"),
        ("tokens saved by stopping early", f"{early['tokens_saved']:.0%}", "at least 40 %"),
    ]  # fmt: skip


def _points(interval: dict[str, float]) -> str:
    mean, low, high = (100 * interval[name] for name in ("mean", "low", "high"))
    return f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _cct_throughput(result: Result) -> list[Row]:
    speeds = result["tokens_per_second"]
    both = f"{median(speeds['cct']):,.0f} and {median(speeds['raw']):,.0f}"
    return [
        ("tokens/s of CCT with K = 8 and of the engine alone", both, ""),
        ("share of the engine's", f"{result['share']:.2f}", "at least 0.85"),
    ]


def _bookkeeping(result: Result) -> list[Row]:
    ways = {"greedy": "one greedy answer each", "all_methods": "all four ways of answering, as by default"}
    return [
        (
            f"{result[name]['items']:,} items, {way}: {result[name]['answers']:,} answers scored and reported",
            f"{result[name]['seconds']:g} s, {result[name]['peak_gib']:g} GiB",
            "at most 60 s, 2 GiB",
        )
        for name, way in ways.items()
    ]


def _viewer(result: Result) -> list[Row]:
    slowest = max(result["filter_ms"].values(), key=lambda found: found["median"])
    return [
        (
            f"first page of {result['completions']:,} completions",
            f"{result['first_page_ms']['median']:g} ms",
            "under 1 s",
        ),
        ("slowest filter", f"{slowest['median']:g} ms", "under 300 ms"),
    ]


SECTIONS: Mapping[str, tuple[str, Callable[[Result], list[Row]]]] = {
    "demo_phantoms": ("The demo on phantoms", _demo),
    "demo_ham10000": ("The demo on HAM10000", _demo_on_real_images),
    "adapter_parity": ("The adapter elsewhere", _adapter_parity),
    "prepare": ("Reading images", _prepare),
    "duplicates": ("Near-duplicates", _duplicates),
    "reward": ("Rule-based reward", _reward),
    "concepts": ("Concept model", _concepts),
    "consistency": ("The consistency term where annotations are poor", _consistency),
    "overlap": ("Rollouts beside updates", _overlap),
    "publish": ("Adapters to engines", _publish),
    "logprobs": ("Log-probabilities over a large vocabulary", _logprobs),
    "scaling": ("Adding and removing workers", _scaling),
    "cct": ("CCT on phantoms unlike those of training", _cct),
    "cct_held_out": ("CCT on phantoms like those of training", _cct),
    "cct_held_out_ham10000": ("CCT on held-out lesions of HAM10000", _cct),
    "cct_throughput": ("What CCT costs beside the engine", _cct_throughput),
    "bookkeeping": ("Scoring a benchmark", _bookkeeping),
    "viewer": ("Rollout viewer", _viewer),
}
"""By the name of a result's file: the title of its section and what makes its rows."""


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
