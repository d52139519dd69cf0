"""What CCT costs beside the engine: `python -m benchmarks.cct_throughput RUN PREPARED`.

RUN is the folder of a demo, PREPARED a folder whose held-out images are asked about. On one engine in this process, the
rollouts of CCT with K = 8 are sampled in two ways, on different images each time, turn by turn: as one batch of
requests with their views made before (raw), and by CCT, which makes views, reads answers, weighs and aggregates. Writes
`benchmarks/results/cct_throughput.json`: generated tokens a second of each round, and CCT's share of the raw engine's.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from statistics import median

from benchmarks.machine import describe
from dermo_ray.bench.answering import Asked
from dermo_ray.bench.build import build
from dermo_ray.bench.images import read_images
from dermo_ray.bench.responses import item_seed
from dermo_ray.bench.tasks import BenchItem, prompt
from dermo_ray.cct import VIEWS, plan
from dermo_ray.config.bench import BenchSettings
from dermo_ray.records import Turn
from dermo_ray.taxonomy import Taxonomy
from serve.checkpoints import resolve

RESULT = Path("benchmarks/results/cct_throughput.json")
ITEMS = 40
"""Asked at once: 320 requests, more than the engine decodes at once."""
ROUNDS = 5
THREADS = 2


async def raw(sampler, items: list[BenchItem], settings: BenchSettings) -> float:
    """Tokens a second of all requests at once, their pictures made before."""
    requests = []
    for item in items:
        (image,) = read_images(item.images)
        asked = Asked((Turn(from_="human", value=prompt(item)),), (), settings.max_tokens.open)
        draws = plan(settings.cct, item.facts.modality or "clinical", item_seed(item, 0))
        requests += [(VIEWS[draw.view](image), asked, draw.temperature, draw.seed) for draw in draws]
    started = time.perf_counter()
    counts = await asyncio.gather(*(sampler.tokens(*request) for request in requests))
    return sum(counts) / (time.perf_counter() - started)


async def by_cct(sampler, items: list[BenchItem]) -> float:
    """Tokens a second of CCT over the same number of items."""
    started = time.perf_counter()
    responses = await asyncio.gather(*(sampler.answer(item, "cct") for item in items))
    return sum(response.completion_tokens for response in responses) / (time.perf_counter() - started)


async def measure(run: Path, prepared: Path) -> dict[str, object]:
    from actors.adapters import Adapter
    from actors.examiner import Examiner
    from actors.messages import Sampling

    class Sampler(Examiner):
        """An examiner in this process that can also be asked for tokens alone."""

        async def tokens(self, image, asked: Asked, temperature: float, seed: int) -> int:
            sampling = Sampling(temperature=temperature, max_tokens=asked.max_tokens, seed=seed)
            _, (completion,) = await self._engine.generate(asked.turns, [image], sampling, self._engine.version)
            return len(completion.token_ids)

    checkpoint = resolve(run / "mavic")
    settings = BenchSettings.model_validate(
        {
            "out": "unused",
            "cache": "unused.sqlite",
            "items": {"prepared": prepared},
            "policies": [{"name": "mavic", "run": run / "mavic"}],
            "max_tokens": {"choice": 48, "open": 48},
            "pool": {"cpus_per_worker": THREADS},
            "engine": {"max_model_len": 256, "max_num_seqs": 256, "cpu_kv_cache_gib": 0.5},
        }
    )
    found = build(prepared, Taxonomy.load(), ["t3.2"], style="brief")["t3.2"].items
    needed = (2 * ROUNDS + 2) * ITEMS
    if len(found) < needed:
        raise SystemExit(f"{prepared} has {len(found)} held-out items, {needed} are needed")
    chunks = iter([found[start : start + ITEMS] for start in range(0, needed, ITEMS)])
    sampler = Sampler(checkpoint.model, checkpoint.lora_rank, settings)
    await sampler.start(Adapter.at(checkpoint.adapter, checkpoint.version))
    try:
        await raw(sampler, next(chunks), settings)  # the first of each warms up
        await by_cct(sampler, next(chunks))
        rounds = [
            (await raw(sampler, next(chunks), settings), await by_cct(sampler, next(chunks))) for _ in range(ROUNDS)
        ]
    finally:
        await sampler.close()
    return {
        "rollouts_at_once": ITEMS * len(plan(settings.cct, "dermoscopic", 0)),
        "tokens_per_second": {
            "raw": [round(first) for first, _ in rounds],
            "cct": [round(second) for _, second in rounds],
        },
        "share": round(median(second for _, second in rounds) / median(first for first, _ in rounds), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("prepared", type=Path)
    arguments = parser.parse_args()
    measured = asyncio.run(measure(arguments.run, arguments.prepared))
    result = {"command": "python -m benchmarks.cct_throughput RUN PREPARED", "machine": describe(), **measured}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
