"""The report says what the figures say, needs nothing outside itself, and shows losses as plainly as gains."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dermo_ray.bench.findings import Answer
from dermo_ray.bench.heldout import Evaluation, evaluate
from dermo_ray.bench.statistics import Interval
from dermo_ray.completion import Completion, render
from dermo_ray.config import RewardConfig
from dermo_ray.morphology import DERM7PT_FIELDS, Morphology
from dermo_ray.phantom import PhantomSettings, draw
from dermo_ray.records import GroundTruth
from dermo_ray.report import Summary, write_report
from dermo_ray.report.examples import choose, data_uri
from dermo_ray.report.metrics import read_metrics
from dermo_ray.report.plots import curves
from dermo_ray.report.tables import tables, verdict
from dermo_ray.rollouts import ScoredCompletion
from dermo_ray.taxonomy import Taxonomy
from rewards import mavic_reward

TAXONOMY = Taxonomy.load()
INJECTION = "<script>alert(1)</script><img src=https://example.org/x.png> & more"
VOID = {"meta", "img", "br", "line", "path", "use", "rect"}


def completion(policy: str, prompt: str, truth: GroundTruth, text: str, sample: int = 0, **changes: Any) -> Any:
    reward = mavic_reward(text, truth, RewardConfig())
    values = {
        "step": -1,
        "policy": policy,
        "version": 0 if policy == "sft" else 7,
        "prompt_id": prompt,
        "image": f"images/{prompt}.png",
        "task": truth.task,
        "modality": truth.modality,
        "text": text,
        "tokens": 50,
        "finish_reason": "stop",
        "logprob": -0.5,
        "reward": reward.total,
        "terms": reward.terms,
        "weights": reward.weights,
        "gate": reward.gate,
        "gated": tuple(reward.gated),
        "faults": reward.faults,
        "ground_truth": truth.model_dump_json(),
        "sample": sample,
        "greedy": False,
    }
    return ScoredCompletion.model_validate(values | changes)


def answered(morphology: Morphology, label: str) -> str:
    return render(Completion("task3", "It is seen.", morphology, None, label))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[Any], Path]:
    """Sft: everything right in the first four prompts, unreadable in the others; mavic: the other way round."""
    prepared = tmp_path_factory.mktemp("prepared")
    (prepared / "images").mkdir()
    before, after = [], []
    for number in range(12):
        phantom = draw(number, PhantomSettings(size=48))
        Image.fromarray(phantom.image).save(prepared / "images" / f"p{number:02}.png")
        label = TAXONOMY.canonical(phantom.diagnosis)
        assert label is not None
        truth = GroundTruth(
            task="task3",
            modality=phantom.modality,
            final_label=label,
            taxon_path=TAXONOMY.path(label),
            morph=phantom.morphology.to_json(),
        )
        right = answered(phantom.morphology, label)
        texts = (right, INJECTION) if number < 4 else (INJECTION, right)
        for greedy in (False, True):
            before.append(completion("sft", f"p{number:02}", truth, texts[0], greedy=greedy))
            after.append(completion("mavic", f"p{number:02}", truth, texts[1], greedy=greedy))
    return before, after, prepared


@pytest.fixture(scope="module")
def evaluation(rows: tuple[list[Any], list[Any], Path]) -> Evaluation:
    return evaluate(rows[0], rows[1], TAXONOMY, resamples=200)


def summarise(evaluation: Evaluation) -> Summary:
    return Summary.of(
        evaluation,
        source="phantoms",
        seed=3,
        seconds={"prepare": 5.25, "mavic": 185.0},
        peak_rss_gib=4.5,
        versions={"torch": "2.13.0"},
        served_answer=INJECTION,
    )


@pytest.fixture(scope="module")
def page(
    rows: tuple[list[Any], list[Any], Path], evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory
) -> str:
    run = tmp_path_factory.mktemp("run")
    metrics = run / "metrics.jsonl"
    lines = [
        {"step": step, "time": 1.0, "reward/total": step / 10, "reward/format": 1.0, "loss": 0.1, "seconds/learn": 2.0}
        for step in range(5)
    ]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sft_metrics = run / "sft.jsonl"
    sft_metrics.write_text("".join(f'{{"step": {step}, "loss": {9 - step}}}\n' for step in range(5)))
    before, after, prepared = rows
    path = write_report(
        run,
        summary=summarise(evaluation),
        evaluation=evaluation,
        before=before,
        after=after,
        prepared=prepared,
        taxonomy=TAXONOMY,
        sft_metrics=sft_metrics,
        mavic_metrics=metrics,
    )
    assert path == run / "report.html"
    assert sorted(entry.name for entry in run.iterdir()) == ["metrics.jsonl", "report.html", "sft.jsonl"]
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("label", ["Melanoma", None])
def test_references_without_morphology_or_without_label_make_a_page_too(label: str | None, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "x.png")
    truth = GroundTruth(task="task3", modality="dermoscopic", final_label=label)
    sides = [
        [completion(policy, "x", truth, text, image="x.png", greedy=greedy) for greedy in (False, True)]
        for policy, text in (("sft", "unreadable"), ("mavic", "<final_diagnosis>melanoma</final_diagnosis>"))
    ]
    made = evaluate(sides[0], sides[1], TAXONOMY, resamples=50)
    summary = summarise(made)
    assert (summary.balanced_accuracy is None) is (label is None)
    path = write_report(
        tmp_path,
        summary=summary,
        evaluation=made,
        before=sides[0],
        after=sides[1],
        prepared=tmp_path,
        taxonomy=TAXONOMY,
    )
    page = path.read_text(encoding="utf-8")
    assert "SkinCon F1" not in page
    assert "Balanced accuracy" in page if label else "Balanced accuracy" not in page


class Outline(HTMLParser):
    """Every start tag with its attributes; notes tags that are closed wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    return parsed


def test_the_page_is_well_formed_and_asks_for_nothing_outside(outline: Outline, page: str) -> None:
    assert (outline.wrong, outline.open) == ([], [])
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in outline.tags}
    sources = [attrs[key] or "" for _, attrs in outline.tags for key in ("src", "href", "xlink:href") if key in attrs]
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []


def test_what_a_policy_wrote_is_shown_as_text(page: str) -> None:
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2


def test_the_page_can_be_read_without_eyes_or_colour(outline: Outline, page: str) -> None:
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(lower - upper <= 1 for upper, lower in pairwise(levels))
    assert all(attrs.get("alt") for tag, attrs in outline.tags if tag == "img")
    assert all(attrs.get("scope") for tag, attrs in outline.tags if tag == "th")
    assert ("html", {"lang": "en"}) in outline.tags
    ids = [attrs["id"] for _, attrs in outline.tags if attrs.get("id")]
    links = [(attrs["href"] or "")[1:] for tag, attrs in outline.tags if tag == "a"]
    assert set(links) <= set(ids)
    drawings = [attrs for tag, attrs in outline.tags if tag == "svg"]
    assert all(attrs.get("aria-hidden") or attrs.get("aria-label") for attrs in drawings)
    assert "(right)</span>" in page
    assert "(wrong)</span>" in page
    assert "prefers-color-scheme: dark" in page


def test_no_name_in_the_page_is_given_twice(outline: Outline) -> None:
    names = [attrs["id"] for _, attrs in outline.tags if attrs.get("id")]
    assert len(names) == len(set(names))


def test_the_figures_of_the_summary_and_the_tables_are_on_the_page(page: str, evaluation: Evaluation) -> None:
    summary = summarise(evaluation)
    assert f"{summary.reward_heldout.sft:.3f}" in page
    assert f"{summary.reward_heldout.diff:+.3f}".replace("-", "\N{MINUS SIGN}") in page
    assert "3 min 10 s" in page
    assert "4.5 GiB" in page
    assert all(name in page for name in ("Balanced accuracy", "SkinCon F1", *DERM7PT_FIELDS, "For research only"))
    assert "always the most frequent label" in page


def test_the_summary_takes_its_figures_from_the_evaluation(evaluation: Evaluation) -> None:
    summary = summarise(evaluation)
    assert summary.format_valid.sft == pytest.approx(4 / 12)
    assert summary.format_valid.mavic == pytest.approx(8 / 12)
    assert summary.reward_heldout.diff == pytest.approx(summary.reward_heldout.mavic - summary.reward_heldout.sft)
    assert summary.reward_heldout.ci95[0] < summary.reward_heldout.diff < summary.reward_heldout.ci95[1]
    assert summary.reward_greedy.mavic == pytest.approx(summary.reward_heldout.mavic)
    written = json.loads(summary.model_dump_json())
    assert set(written["reward_heldout"]) == {"sft", "mavic", "diff", "ci95"}
    assert Summary.model_validate(written) == summary


def test_a_summary_without_greedy_completions_is_refused(rows: tuple[list[Any], list[Any], Path]) -> None:
    sampled = [[row for row in side if not row.greedy] for side in rows[:2]]
    with pytest.raises(ValueError, match="sampled and greedy"):
        summarise(evaluate(*sampled, TAXONOMY, resamples=20))


def test_a_verdict_needs_the_whole_interval_on_one_side_of_zero() -> None:
    assert verdict(Interval(0.1, 0.01, 0.2)) == "better"
    assert verdict(Interval(-0.1, -0.2, -0.01)) == "worse"
    assert verdict(Interval(0.1, 0.0, 0.2)) == "unclear"
    assert verdict(Interval(-0.1, -0.2, 0.01)) == "unclear"


def test_what_got_worse_is_named_above_the_table(rows: tuple[list[Any], list[Any], Path]) -> None:
    before, after, _ = rows
    made = tables(evaluate(after, before, TAXONOMY, resamples=200))  # the other way round: four right, eight wrong
    assert [table.title for table in made] == ["Sampled at temperature 1", "Greedy"]
    table = made[0]
    fallen = {row.name for section in table.sections for row in section.rows if row.difference.mean < 0}
    assert "Reward" in fallen
    assert fallen == {*table.named("worse"), *table.lower}
    for section in table.sections:
        for row in section.rows:
            assert 0 <= row.forest.low <= row.forest.middle <= row.forest.high <= 100


def test_examples_come_from_both_ends_and_the_middle(rows: tuple[list[Any], list[Any], Path]) -> None:
    examples = choose(*rows, TAXONOMY)
    assert [example.kind for example in examples] == ["Largest gain"] * 2 + ["Median"] * 2 + ["Largest loss"] * 2
    assert [example.gain for example in examples] == sorted((example.gain for example in examples), reverse=True)
    assert examples[0].gain > 0 > examples[-1].gain
    assert all(example.image.startswith("data:image/png;base64,") for example in examples)


def test_few_prompts_are_shown_once_each(rows: tuple[list[Any], list[Any], Path]) -> None:
    before, after, prepared = rows
    assert len(choose(before[:2], after[:2], prepared, TAXONOMY)) == 1
    assert choose(before[:2], after[2:4], prepared, TAXONOMY) == []


def test_the_completion_nearest_the_mean_stands_for_its_prompt(tmp_path: Path) -> None:
    Image.new("RGB", (600, 300)).save(tmp_path / "x.jpg")
    truth = GroundTruth(task="task3", modality="clinical", final_label="Psoriasis")
    fields = Morphology.from_json({"morphological_features_skincon": ["Plaque"]})

    def group(policy: str) -> list[Any]:
        rewards = (0.0, 0.55, 0.9)
        text = answered(fields, "Psoriasis")
        return [
            completion(policy, "x", truth, text, sample, reward=reward, image="x.jpg")
            for sample, reward in enumerate(rewards)
        ]

    (example,) = choose(group("sft"), group("mavic"), tmp_path, TAXONOMY)
    assert example.before.row.sample == 1
    assert example.before.mean_reward == pytest.approx(1.45 / 3)
    assert example.image.startswith("data:image/jpeg;base64,")


def test_the_checklist_marks_right_wrong_and_unknowable(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    stated = Morphology.from_json({"morphological_features_skincon": ["Plaque", "Crust"]})

    def checklist(morph: dict[str, Any] | None) -> dict[str, tuple[str, Answer, Answer]]:
        truth = GroundTruth(task="task3", modality="clinical", final_label="Psoriasis", morph=morph)
        sides = [
            [completion(policy, "x", truth, text, image="x.png")]
            for policy, text in (("sft", answered(stated, "Acne Vulgaris")), ("mavic", "unreadable"))
        ]
        (example,) = choose(sides[0], sides[1], tmp_path, TAXONOMY)
        return {entry.name: (entry.reference, *entry.answers) for entry in example.findings}

    found = checklist({"morphological_features_skincon": ["Plaque", "Scale"]})
    nothing = Answer("not stated", False)
    assert found == {
        "Diagnosis": ("Psoriasis", Answer("Acne Vulgaris", False), Answer("none that can be read", False)),
        "Crust": ("absent", Answer("present", False), nothing),
        "Plaque": ("present", Answer("present", True), nothing),
        "Scale": ("present", Answer("absent", False), nothing),
    }
    unknown = checklist(None)
    assert unknown["Plaque"] == ("no reference", Answer("present", None), Answer("not stated", None))


def test_large_images_are_scaled_down(tmp_path: Path) -> None:
    Image.effect_noise((2000, 1500), 80).convert("RGB").save(tmp_path / "large.png")
    assert len(data_uri(tmp_path / "large.png")) < 200_000


def test_metrics_keep_the_last_of_a_repeated_step_and_leave_out_what_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0, "note": "text"}\n'
        '{"step": 2, "loss": 1.0, "eval": NaN}\n{"step": 3, "lo'
    )
    series = read_metrics(path)
    assert list(series) == ["loss"]
    assert series["loss"].steps.tolist() == [1, 2]
    assert series["loss"].values.tolist() == [3.0, 1.0]


def test_a_chart_is_drawn_for_what_there_is_in_the_pages_own_colours(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    entries = [
        {
            "step": step,
            "time": step,
            "reward/morphology": 0.5,
            "reward/total": step / 100,
            "approx_kl": 0.01,
            "clip_fraction": 0.1,
            "tokens_per_second": 900.0,
            "staleness/mean": 0.5,
            "seconds/rollout": 1.0,
            **({"seconds/publish": 0.1} if step % 2 else {}),
        }
        for step in range(80)
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    charts = curves(path)
    assert [chart.title for chart in charts] == [
        "Reward and its terms",
        "Drift from the sampling policy",
        "Clipped tokens",
        "Throughput",
        "Staleness",
        "Where a step's time goes",
    ]
    reward = charts[0]
    assert [(entry.name, entry.first, entry.last) for entry in reward.legend] == [
        ("total", 0.0, 0.79),
        ("morphology", 0.5, 0.5),
    ]
    assert reward.legend[0].dashes != reward.legend[1].dashes
    for chart in charts:
        assert "var(--series-1)" in chart.svg
        assert "#0000" not in chart.svg
        assert "<?xml" not in chart.svg


def test_losses_have_a_curve_for_each_format_and_validations_a_chart_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    names = ("loss", "loss/diagnosis", "loss/reasoning", "val_loss", "val_loss/diagnosis", "accuracy/diagnosis")
    path.write_text(json.dumps({"step": 1} | dict.fromkeys(names, 1.0)) + "\n")
    shown = {chart.title: [entry.name for entry in chart.legend] for chart in curves(path)}
    assert shown == {"Loss": ["loss", "diagnosis", "reasoning"], "Validation loss": ["val loss", "diagnosis"]}


def test_the_whole_time_of_a_step_is_not_stacked_on_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "seconds/step": 3.0, "seconds/update": 2.0, "seconds/publish": 1.0}\n')
    (chart,) = curves(path)
    assert [entry.name for entry in chart.legend] == ["update", "publish"]


def test_one_step_and_no_metrics_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.0, "seconds/learn": 1.0}\n')
    assert [chart.title for chart in curves(path)] == ["Loss", "Where a step's time goes"]
    path.write_text("")
    assert curves(path) == []
