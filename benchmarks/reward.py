"""How fast the rule terms score, on one core: `python -m benchmarks.reward`.

Scores a mixture of completions (right, wrong in parts, malformed; both tasks and modalities), and parses completions of
100 kB, among them those made to be slow. Writes `benchmarks/results/reward.json`: the machine, the command, completions
a second, and milliseconds for each long completion, each the median over rounds.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.machine import describe
from dermo_ray.completion import parse
from dermo_ray.config import RewardConfig
from dermo_ray.records import GroundTruth
from dermo_ray.taxonomy import Taxonomy
from rewards import Scorer, mavic_reward
from rewards.check import probes

RESULT = Path("benchmarks/results/reward.json")
ROUNDS = 15
COMPLETIONS = 2_000
LENGTH = 100_000

UNITS = ["so ", "<morph>", "<morph></morph>", "<|", "<", "\n", "[", '{"a":', "or ", "\u0316\u0301"]
"""What a long completion repeats; all but the first are made to be slow."""
FRAMES = {
    "bare": "{}",
    "reasoning": "<reasoning>{}</reasoning>",
    "morph": "<morph>{}</morph>",
    "diagnosis": "<final_diagnosis>{}</final_diagnosis>",
}


def mixture() -> tuple[list[str], list[GroundTruth]]:
    """`COMPLETIONS` completions with the references they are scored against."""
    pairs = [(text, truth) for truth, texts in probes(Taxonomy.load()) for text in texts]
    pairs = (pairs * (COMPLETIONS // len(pairs) + 1))[:COMPLETIONS]
    return [text for text, _ in pairs], [truth for _, truth in pairs]


def seconds(work: Callable[[], object]) -> float:
    """Median CPU seconds of `work` over the rounds, after one to warm up."""
    work()
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return median(times)


def main() -> None:
    texts, truths = mixture()
    config = RewardConfig()
    scorer = Scorer(config)
    in_batches = COMPLETIONS / seconds(lambda: scorer.score(texts, truths))
    one_by_one = COMPLETIONS / seconds(
        lambda: [mavic_reward(text, truth, config) for text, truth in zip(texts, truths, strict=True)]
    )
    parsing = {
        f"{name} of {unit!a}": 1e3 * seconds(partial(parse, frame.replace("{}", unit * (LENGTH // len(unit)))))
        for name, frame in FRAMES.items()
        for unit in UNITS
    }
    result = {
        "command": "python -m benchmarks.reward",
        "machine": describe(),
        "completions": {"count": COMPLETIONS, "mean_characters": sum(map(len, texts)) / COMPLETIONS},
        "completions_per_second": {"in_batches": round(in_batches), "one_by_one": round(one_by_one)},
        "parse_100_kB_ms": {name: round(took, 3) for name, took in parsing.items()},
        "slowest_parse_100_kB_ms": round(max(parsing.values()), 3),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
