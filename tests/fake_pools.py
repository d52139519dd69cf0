"""Fake pools in one process, and a run controller over them."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from actors.accounts import RunAccounts
from actors.adapters import Adapter, Published, Sent
from actors.controller import RunController
from actors.messages import Group, Prompt, Sampled, Sampling, ScoredGroup, TrainingGroup
from actors.progress import Progress
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.data.prompts import PromptOrder
from dermo_ray.ledger import Ledger, Opening
from dermo_ray.records import GroundTruth, RLPrompt
from rewards import Reward

TRUTH = GroundTruth(task="task3", modality="clinical", final_label="Psoriasis")
GROUP_SIZE = 2


def record(number: int) -> RLPrompt:
    return RLPrompt(
        id=f"p{number:03d}", image="a.png", source="s", group="g", prompt="<image>\nName", ground_truth=TRUTH
    )


def sampled(tokens: int = 3, finish_reason: str = "stop") -> Sampled:
    return Sampled(list(range(tokens)), [-0.5] * tokens, "text", finish_reason)


def reward(total: float, faults: tuple[str, ...] = (), **terms: float) -> Reward:
    return Reward(total, terms, faults, dict.fromkeys(terms, 1 / max(1, len(terms))), 1.0, frozenset())


def scored(index: int, totals: list[float], version: int = 0) -> ScoredGroup:
    group = Group(Prompt(index, record(index)), version, [7, 8], [sampled() for _ in totals])
    return ScoredGroup(group, [reward(total, format=total) for total in totals])


class FakeRollouts:
    """Stands for the rollout pool: a group takes `seconds(index)` and comes from the version loaded when it began.

    Loading takes `load_seconds`.
    """

    def __init__(self, seconds: Callable[[int], float], load_seconds: float = 0.0) -> None:
        self.seconds, self.load_seconds = seconds, load_seconds
        self.loading = False
        self.version = -1
        self.running = self.most = 0
        self.asked: list[tuple[int, int | None]] = []

    async def sample(self, prompt: Prompt, sampling: Sampling, adapter: Published | None = None) -> Group:
        self.asked.append((prompt.index, sampling.seed))
        version = self.version if adapter is None else adapter.version
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.seconds(prompt.index))
        self.running -= 1
        return Group(prompt, version, [7, 8], [sampled() for _ in range(sampling.n)])

    async def load(self, weights: Published | Sent) -> None:
        self.loading = True
        await asyncio.sleep(self.load_seconds)
        self.loading = False
        self.version = weights.version


class FakeRewards:
    """Stands for the reward pool: completions earn 0, 1, 0, 1, ..., those of `constant` prompts all the same."""

    def __init__(self, constant: Callable[[int], bool] = lambda index: False) -> None:
        self.constant = constant

    async def score(self, group: Group) -> ScoredGroup:
        if self.constant(group.prompt.index):
            return ScoredGroup(group, [reward(0.5, format=1.0) for _ in group.completions])
        return ScoredGroup(group, [reward(float(n % 2), format=1.0) for n in range(len(group.completions))])


class FakeLearners:
    """Stands for the learner pool: notes what it is given, and reports `gap` between engine and learner."""

    def __init__(self, gap: float = 0.0, seconds: float = 0.0) -> None:
        self.gap, self.seconds = gap, seconds
        self.batches: list[list[TrainingGroup]] = []
        self.staleness: list[int] = []

    async def update(self, batch: list[TrainingGroup], step: int) -> dict[str, float]:
        await asyncio.sleep(self.seconds)
        self.batches.append(batch)
        ages = [step - training.scored.group.version for training in batch]
        self.staleness += ages
        fresh = {"engine_gap": self.gap} if 0 in ages else {}
        return {"rollout_logprob_diff": self.gap, "loss": 0.0} | fresh

    async def trained_logprobs(self) -> dict[tuple[int, int], list[float]]:
        return {
            (training.scored.group.prompt.index, sample): [-0.25] * len(completion.token_ids)
            for training in self.batches[-1]
            for sample, completion in enumerate(training.scored.group.completions)
        }

    async def divergences(self, batch: list[ScoredGroup]) -> list[float]:
        return [float(number) for number, _ in enumerate(r for scored in batch for r in scored.rewards)]

    async def publish(self, folder: Path, version: int) -> Adapter:
        await asyncio.sleep(self.seconds)
        return Adapter(version, folder / f"v{version:06d}", f"checksum {version}")

    async def save(self, folder: Path) -> None:
        await asyncio.sleep(self.seconds)
        (folder / "learner").mkdir()

    def saved(self, checkpoint: Path) -> None:
        assert (checkpoint / "learner").is_dir()

    @property
    def indices(self) -> list[list[int]]:
        return [[training.scored.group.prompt.index for training in batch] for batch in self.batches]


def settings(run: Path, **values: Any) -> MavicConfig:
    common = {
        "run": run,
        "data": "data",
        "model": {"path": "model"},
        "steps": 6,
        "batch_groups": 4,
        "checkpoint_every": 1,
        "rollout": {"group_size": GROUP_SIZE, "max_concurrent": 8},
    }
    return MavicConfig.model_validate(common | values)


def conduct(
    config: MavicConfig,
    rollout: FakeRollouts,
    learner: FakeLearners,
    progress: Progress | None = None,
    rewards: FakeRewards | None = None,
    conducted: Callable[[RunController], Awaitable[None]] | None = None,
    heldout: Sequence[Prompt] = (),
    accounts: RunAccounts | None = None,
    reports: list[tuple[int, dict[str, float]]] | None = None,
) -> list[tuple[int, dict[str, float]]]:
    """Run to the end, with `conducted` beside it; what was reported, also in `reports`."""
    progress = progress or Progress()
    reports = reports if reports is not None else []
    order = PromptOrder([record(number) for number in range(5)], config.seed)

    async def run(ledger: Ledger) -> None:
        controller = RunController(
            config,
            order,
            rollout,
            rewards or FakeRewards(),
            learner,
            ledger,
            progress,
            lambda version, metrics, rows: reports.append((version, metrics)),
            heldout,
            accounts,
        )
        beside = asyncio.ensure_future(conducted(controller)) if conducted is not None else None
        await asyncio.wait_for(controller.run(), timeout=30)
        if beside is not None:
            await beside

    opening = Opening(resumed_from=progress.version, prompts=len(order.prompts), batch_groups=config.batch_groups)
    with Ledger(config.run, opening) as ledger:
        asyncio.run(run(ledger))
    return reports


def at_once(index: int) -> float:
    return 0.0


def uneven(seed: int) -> Callable[[int], float]:
    """Up to 6 ms a group, and one in eight takes 60 ms."""
    return lambda index: (draw := random.Random(f"{seed} {index}")).random() * 0.006 + 0.06 * (draw.random() < 0.125)
