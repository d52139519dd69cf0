"""Settings of DermoBench: what is asked, whom, how, and how the answers are judged."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from dermo_ray.bench.tasks.items import TaskId
from dermo_ray.config.asking import AskingSettings, EndpointSettings
from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.config.cct import CCTConfig
from dermo_ray.config.judge import JudgeSettings
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.pools import EngineSettings, PoolSettings
from dermo_ray.prompts import Style
from dermo_ray.records import Split

Method = Literal["greedy", "majority", "cct", "cct_early"]
"""One completion at temperature 0; a plain vote of as many samples as CCT plans rollouts; CCT; CCT that stops early."""


class PolicySettings(Settings):
    """One model to measure: a run's checkpoint, a model folder with or without an adapter, or a server."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What the report calls it."""
    run: AbsolutePath | None = None
    """Run directory of jobs.sft or jobs.mavic."""
    checkpoint: str = "latest"
    """With `run`: folder below `checkpoints/`, `latest` or one such as `step_000040`."""
    model: ModelSettings | None = None
    """A model folder: a base model, or one with an adapter merged into it."""
    adapter: AbsolutePath | None = None
    """With `model`: a folder that peft wrote, loaded on top of it."""
    endpoint: EndpointSettings | None = None
    """An OpenAI-compatible server, jobs.serve included; the images are sent to it."""

    @model_validator(mode="after")
    def _one_of_three(self) -> "PolicySettings":
        if sum(way is not None for way in (self.run, self.model, self.endpoint)) != 1:
            raise ValueError(f"say where policy {self.name} is by one of run, model and endpoint")
        if self.adapter is not None and self.model is None:
            raise ValueError("an adapter needs model, the folder of the model that it was trained on")
        return self


class ItemSettings(Settings):
    """Where the items come from: the released files, or a prepared folder."""

    release: AbsolutePath | None = None
    """Folder of the released benchmark, with task1 to task4 in it."""
    images: AbsolutePath | None = None
    """With `release`: the folder that its image paths start from."""
    skin_tones: AbsolutePath | None = None
    """With `release`: DDI's ddi_metadata.csv, for the fairness task."""
    prepared: AbsolutePath | None = None
    """Folder that jobs.prepare wrote, to build items of the same form from its held-out images."""
    split: Split = "test"
    """With `prepared`: the split to ask about; benchmark sources are always asked about."""
    sources: list[str] | None = Field(default=None, min_length=1)
    """With `prepared`: images of these data sets alone, such as [ham10000]; null asks about all that are held out."""
    style: Style | None = None
    """Wording of questions that are made here; null is that of the prepared folder, or `full` for released files."""
    taxonomy: AbsolutePath | None = None
    """A tree of diagnoses of your own; null: the default tree."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many items of a task (of each data set of t2.4), drawn by `seed`; null takes them all."""
    seed: int = Field(default=0, ge=0)
    """Seed of that draw, and of the wording and the options of questions that are made here."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "ItemSettings":
        if (self.release is None) == (self.prepared is None):
            raise ValueError("items come from release=DIR or from prepared=DIR: give one of them")
        if (self.release is None) != (self.images is None):
            raise ValueError("images=DIR belongs to release=DIR: give both, or neither")
        if self.skin_tones is not None and self.release is None:
            raise ValueError("skin_tones belongs to release=DIR: a prepared folder knows its skin tones")
        if self.sources is not None and self.release is not None:
            raise ValueError("sources belongs to prepared=DIR: released files are chosen by tasks")
        return self


class LengthSettings(Settings):
    """Longest answers in tokens. The defaults are those of the authors' scripts."""

    choice: int = Field(default=128, ge=1)
    """To a question with options, each step of a walk included."""
    open: int = Field(default=2048, ge=1)
    """To an open task."""


class BenchSettings(AskingSettings):
    """DermoBench over one policy or several. What policies answered is kept in `cache`, by content."""

    out: AbsolutePath
    """Folder for bench.json, bench.html and model_card.md."""
    concurrency: int = Field(default=64, ge=1)
    """How many items are worked on at once; with CCT each may have as many requests under way as rollouts."""
    items: ItemSettings
    """What is asked."""
    tasks: tuple[TaskId, ...] = get_args(TaskId)
    """Which of the eleven tasks."""
    policies: list[PolicySettings] = Field(min_length=1)
    """Who is asked; every further policy is compared with the first, item by item."""
    methods: tuple[Method, ...] = get_args(Method)
    """How an answer comes about. Descriptions (t1.1, t1.2) always have one greedy completion."""
    early: Literal["certain", "probable"] = "probable"
    """How `cct_early` stops."""
    instruct: bool = False
    """Add how to answer to every question, for models that were not trained on such data."""
    max_pixels: int | None = Field(default=None, ge=1024)
    """Images with more pixels are scaled down to so many before any view is made; null shows them as they are."""
    max_tokens: LengthSettings = LengthSettings()
    """Longest answers."""
    cct: CCTConfig = CCTConfig(tau=0.0)
    """CCT; the vote has its temperature and its number of rollouts. `tau` 0 answers every question."""
    pool: PoolSettings = PoolSettings()
    """The workers of a policy that runs here, one engine each."""
    engine: EngineSettings = EngineSettings()
    """The engine of each worker."""
    judge: JudgeSettings | None = None
    """Who judges the open tasks; null compares answers with references offline, which is not the paper's measure."""
    examples: int = Field(default=6, ge=0)
    """Example cases in the report, about half of them right."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples behind every interval."""

    @model_validator(mode="after")
    def _consistent(self) -> "BenchSettings":
        names = [policy.name for policy in self.policies]
        if len(set(names)) < len(names):
            raise ValueError("two policies have one name: give each its own")
        if not self.tasks or not self.methods:
            raise ValueError("tasks and methods each need at least one entry")
        if "greedy" not in self.methods:
            raise ValueError("methods needs greedy: it is what published figures are, and what others compare with")
        if "majority" not in self.methods and not {"cct", "cct_early"}.isdisjoint(self.methods):
            raise ValueError("methods needs majority beside cct: a plain vote at equal cost is what CCT is measured by")
        if self.cct.stop != "never":
            raise ValueError("cct.stop must stay never here: cct_early is CCT that stops, and bench.early says how")
        fit = self.cct.adaptation.fit
        if fit is not None and (self.items.prepared is None or fit == self.items.split):
            raise ValueError("cct.adaptation.fit needs items.prepared, and another split than items.split")
        local = any(policy.endpoint is None for policy in self.policies)
        if local and max(self.max_tokens.choice, self.max_tokens.open) >= self.engine.max_model_len:
            raise ValueError("max_tokens must leave room for the prompt within engine.max_model_len")
        return self
