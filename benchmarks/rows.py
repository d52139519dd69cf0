"""What the page of figures says of each result: what was measured, the figure, and what it should be."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

Result = dict[str, Any]
Row = tuple[str, str, str]
"""What was measured, the figure, and what it should be."""
_SHOWN_CORES = 0.02
"""Processes that take less are not told."""


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
    targets = {"tiny": "at most 0.3 s", "350 MB": "at most 3 times"}
    rows = []
    for name, found in result["figures"].items():
        seconds = f"{found['publish_to_loaded_on_all_seconds']['median']:.3f} s"
        wanted = targets.get(name, "")
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
    gain, no_loss, selected = (
        wanted if result["shift"] else ""  # without one little is to be gained
        for wanted in ("at least +2 points, interval above 0", "not below 0", "at least +3 points")
    )
    adapted = result.get("adapted", {})
    tried = result.get("tried_over_greedy", {})
    return [
        (f"accuracy over {every['items']:,} questions" + (f" of {len(result['runs'])} runs" if several else ""),
         accuracies, ""),
        ("CCT over one greedy answer", _points(over_greedy["comparison"]["difference"]), gain),
        ("CCT over a majority vote of as many samples", _points(over_vote["comparison"]["difference"]), no_loss),
        ("CCT at 80 % coverage over all", _points(selective["gain"]), selected),
        *(
            (f"CCT adapted to the stream over {over.removeprefix('over_').replace('greedy', 'one greedy answer')}",
             _points(found["difference"]), "")
            for over, found in adapted.items()
        ),
        *((f"CCT with {change} over one greedy answer", _points(found["difference"]), "")
          for change, found in tried.items()),
        *((f"one greedy answer to {view} over that to the untouched image", _points(found["difference"]), "")
          for view, found in result.get("one_view_over_greedy", {}).items()),
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


def _staleness(result: Result) -> list[Row]:
    rewards = {
        mode: ", ".join(f"{seed['reward_heldout']:.3f}" for seed in found) for mode, found in result["figures"].items()
    }
    noise = " and ".join(f"{deviation:.3f}" for deviation in result["deviation_of_seeds"].values())
    return [
        *((f"held-out reward by seed, {mode}", values, "") for mode, values in rewards.items()),
        ("asynchronous less synchronous, mean", f"{result['mean_difference']:+.4f}", "within the seeds' noise"),
        ("standard deviation of the seeds, synchronous and asynchronous", noise, ""),
    ]


def _forecast(result: Result) -> list[Row]:
    rows = []
    for found in result["forecasts"]:
        split = f"{found['gpus']} GPUs, {found['engines']} engines and {found['learner_ranks']} learner ranks"
        speed = f"{found['tokens_per_second']:,} tokens/s, limited by the {found['bottleneck']}"
        rows.append((f"forecast, not measured: {split}", speed, ""))
    return rows


def _chaos(result: Result) -> list[Row]:
    recovery = result["rollout_recovery_seconds"]
    return [
        (f"faults over {result['runs']} runs", f"{result['total_faults']}", "100"),
        ("runs that hung", f"{result['hangs']}", "0"),
        ("prompts lost or trained twice, wrong numbers of updates, other problems", f"{len(result['problems'])}", "0"),
        ("processes left behind", f"{result['workers_left_behind']}", "0"),
        (
            "from a rollout worker's loss to the first answer of the next one",
            f"median {recovery['median']:g} s, at most {recovery['max']:g} s",
            "",
        ),
    ]


def _control_plane(result: Result) -> list[Row]:
    memory = result["memory"]
    grown = f"{memory['growth_mib_from_a_tenth_to_the_end']:+g} MiB"
    speeds = [
        (
            f"{speed['workers']:,} workers: share of the ideal throughput, the controller's CPU time for a group",
            f"{speed['share_of_ideal']:.1%}, {speed['controller_cpu_ms_per_group']:g} ms",
            "at least 95 % at 512",
        )
        for speed in result["throughput"]
    ]
    return [
        *speeds,
        (f"memory over {memory['groups']:,} groups, from a tenth of them on", grown, "flat"),
    ]  # fmt: skip


def _serving(result: Result) -> list[Row]:
    rows = []
    for concurrency, found in result["concurrency"].items():
        theirs, ours = (found[name]["tokens_per_second"] for name in ("vllm serve", "dermo_ray"))
        both = f"{found['throughput_ratio']:.2f} (medians {ours:,.0f} and {theirs:,.0f} tokens/s)"
        rows.append((f"concurrency {concurrency}: share of the throughput of `vllm serve`", both, "at least 0.9"))
    added = f"{result['concurrency']['1']['added_p50_ms']:g} ms"
    return [*rows, ("concurrency 1: median latency added", added, "at most 15 ms")]


def _swaps(result: Result) -> list[Row]:
    return [
        (f"requests during {result['swaps']} swaps", f"{result['requests']:,}", "2,000"),
        ("failed, wrongly attributed", f"{result['failed']}, {result['wrongly_attributed']}", "0, 0"),
        ("p99 during swaps over the steady one", f"{result['p99_ratio']:g}", "at most 2"),
    ]


def _serving_faults(result: Result) -> list[Row]:
    rows = []
    for fault in result["faults"]:
        name = f"{fault['killed']} killed under {fault['load']} load"
        failed = f"{fault['failed']} of {fault['requests']:,}, {fault['sent_again_after_503']}"
        rows += [
            (f"{name}: requests that failed, and that were sent again after a 503", failed, "0"),
            (f"{name}: whole again", f"{fault['whole_again_s']} s", "within 30 s"),
        ]
    return rows


def _soak(result: Result) -> list[Row]:
    memory = f"{result['first_quarter_mib']:,} MiB to {result['last_quarter_mib']:,} MiB, {result['growth']:+.1%}"
    return [
        (f"failed of {result['requests']:,} requests with {result['swaps']} swaps", f"{result['failed']}", "0"),
        ("memory after warm-up, first and last quarter", memory, "within 5 %"),
    ]


def _rollout(result: Result) -> list[Row]:
    speeds = {name: median(found) for name, found in result["tokens_per_second"].items()}
    names = {
        "dermoray": "the rollout pool, with rewards and bookkeeping",
        "one_engine": "`LLM.generate`, one process with all cores",
        "an_engine_a_core": "`LLM.generate`, one process a core",
    }
    rows = [(f"tokens/s, {names[name]}", f"{speed:,.0f}", "") for name, speed in speeds.items()]
    shares = [
        (f"the pool's share of {names[name]}", f"{share:.2f}", "at least 0.95")
        for name, share in result["share_of_bare_engines"].items()
    ]
    return rows + shares


def _beside_trl(result: Result) -> list[Row]:
    names = {
        "dermoray": "DermoRay", "trl": "TRL, one process with all cores", "trl_ddp": "TRL, one process a core",
    }  # fmt: skip
    speeds = result["median_samples_per_second"]
    rows = [(f"samples/s, {names[arm]}", f"{speed:.1f}", "") for arm, speed in speeds.items()]
    wanted = "at least 1.3" if "samples_per_update" in result else "at least 1.2"
    rows.append(("times the faster of TRL's", f"{result['times_trl']:.2f}", wanted))
    reached = {
        "reward_of_the_last_ten": "reward of the last ten updates after the same time",
        "loss_of_the_last_twenty": "loss of the last twenty updates of as many",
        "peak_memory_gib": "peak memory, GiB",
    }
    for key, title in reached.items():
        if key in result["runs"]["dermoray"][0]:
            found = {arm: median(run[key] for run in runs) for arm, runs in result["runs"].items()}
            rows.append((title, "; ".join(f"{names[arm]}: {value:.3g}" for arm, value in found.items()), ""))
    engines = {"one_engine": "one bare engine with all cores", "an_engine_a_core": "bare engines, one a core,"}
    parts = [run["times_the_bare_parts"] for run in result["runs"]["dermoray"] if "times_the_bare_parts" in run]
    if parts:
        rows += [
            (f"seconds over those of {engines[name]} and bare learner ranks together",
             f"{median(part[name] for part in parts):.2f}", "at most 1.1")
            for name in parts[0]
        ]  # fmt: skip
    return rows


def _profiles(result: Result) -> list[Row]:
    rows = []
    for name, profiles in result["profiles"].items():
        for found in profiles:
            shares = ", ".join(
                f"{title} {process['cores']:.2f}"
                for title, process in found["processes"].items()
                if process["cores"] >= _SHOWN_CORES
            )
            rows.append((f"{name} at {found['commit']}, cores by process: {found['note']}", shares, ""))
    return rows


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
    "staleness": ("Learning from completions an update old", _staleness),
    "publish": ("Adapters to engines", _publish),
    "logprobs": ("Log-probabilities over a large vocabulary", _logprobs),
    "rollout": ("Rollouts beside vLLM alone", _rollout),
    "rl_step": ("An RL step beside TRL's", _beside_trl),
    "sft_step": ("An SFT step beside TRL's", _beside_trl),
    "profiles": ("Where the time goes", _profiles),
    "scaling": ("Adding and removing workers", _scaling),
    "control_plane": ("One controller over many workers", _control_plane),
    "forecast": ("What larger clusters would make of it", _forecast),
    "chaos": ("Faults at random", _chaos),
    "cct": ("CCT on phantoms unlike those of training", _cct),
    "cct_held_out": ("CCT on phantoms like those of training", _cct),
    "cct_held_out_ham10000": ("CCT on held-out lesions of HAM10000", _cct),
    "cct_throughput": ("What CCT costs beside the engine", _cct_throughput),
    "serving": ("The service beside `vllm serve`", _serving),
    "swaps": ("Checkpoints swapped under load", _swaps),
    "faults": ("Replicas killed under load", _serving_faults),
    "soak": ("20,000 requests in a row", _soak),
    "bookkeeping": ("Scoring a benchmark", _bookkeeping),
    "viewer": ("Rollout viewer", _viewer),
}
"""By the name of a result's file: the title of its section and what makes its rows."""
