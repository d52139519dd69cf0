"""The viewer's queries agree with the files, follow them as they change, and its answers are safe to show."""

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.synthetic_run import write_run
from dermo_ray.config import RewardConfig
from dermo_ray.config.reward import FaultCosts
from dermo_ray.errors import UserError
from dermo_ray.rollouts import ScoredCompletion, read, read_prompt, step_file, write
from dermo_ray.run_directory import METRICS
from dermo_ray.view.api import build_app
from dermo_ray.view.curves import MAX_POINTS, curves
from dermo_ray.view.differences import differences
from dermo_ray.view.explain import gate_reason
from dermo_ray.view.index import RolloutIndex
from dermo_ray.view.queries import ORDERS, Filters, choices, groups, history, steps
from dermo_ray.view.tokens import load_tokenizer, pieces

Group = tuple[int, str]


@pytest.fixture(scope="module")
def run(synthetic_run: Path) -> Path:
    return synthetic_run


@pytest.fixture(scope="module")
def index(run: Path) -> RolloutIndex:
    index = RolloutIndex(run)
    index.refresh()
    return index


@pytest.fixture(scope="module")
def by_group(run: Path) -> dict[Group, list[ScoredCompletion]]:
    """What the files hold, read without the index."""
    found: dict[Group, list[ScoredCompletion]] = defaultdict(list)
    for row in read(run / "rollouts"):
        found[row.step, row.prompt_id].append(row)
    return found


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def mean(rows: list[ScoredCompletion]) -> float:
    return fmean(row.reward for row in rows)


def lost_to_gate(row: ScoredCompletion) -> bool:
    return row.gate < 1 and bool(row.gated)


def listed(index: RolloutIndex, order: str = "newest", **filters: Any) -> list[dict[str, Any]]:
    answer = groups(index, Filters(**filters), order, limit=200)
    assert answer["total"] == len(answer["groups"])
    found: list[dict[str, Any]] = answer["groups"]
    return found


def names(found: list[dict[str, Any]]) -> list[Group]:
    return [(entry["step"], entry["prompt_id"]) for entry in found]


def test_a_group_has_the_figures_of_its_completions(
    index: RolloutIndex, by_group: dict[Group, list[ScoredCompletion]]
) -> None:
    found = listed(index)
    assert sorted(names(found)) == sorted(by_group)
    for entry in found:
        rows = by_group[entry["step"], entry["prompt_id"]]
        rewards = [row.reward for row in rows]
        assert entry["completions"] == len(rows)
        assert (entry["reward"], entry["spread"]) == pytest.approx((fmean(rewards), pstdev(rewards)))
        assert (entry["lowest"], entry["highest"]) == (min(rewards), max(rewards))
        assert entry["gated"] == pytest.approx(fmean(map(lost_to_gate, rows)))
        assert entry["faults"] == sorted({fault for row in rows for fault in row.faults})
        assert entry["label"] == rows[0].truth.final_label


def test_the_change_is_that_since_the_prompt_was_last_sampled(
    index: RolloutIndex, by_group: dict[Group, list[ScoredCompletion]]
) -> None:
    for entry in listed(index):
        earlier = [step for step, prompt in by_group if prompt == entry["prompt_id"] and step < entry["step"]]
        if not earlier:
            assert entry["change"] is entry["previous_step"] is None
            continue
        before = by_group[max(earlier), entry["prompt_id"]]
        assert entry["previous_step"] == max(earlier)
        assert entry["change"] == pytest.approx(entry["reward"] - mean(before))
    largest = listed(index, "changed")[0]["change"]
    assert abs(largest) == max(abs(entry["change"]) for entry in listed(index) if entry["change"] is not None)


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({"step": 2}, lambda rows: rows[0].step == 2),
        ({"gated": True}, lambda rows: any(map(lost_to_gate, rows))),
        ({"modality": "clinical"}, lambda rows: rows[0].modality == "clinical"),
        ({"prompt": "TOM_0003"}, lambda rows: rows[0].prompt_id == "phantom_0003"),
        ({"task": "task1"}, lambda rows: False),
        ({"dropped": True}, lambda rows: False),
    ],
)
def test_a_filter_leaves_the_groups_that_are_like_that(
    index: RolloutIndex, by_group: dict[Group, list[ScoredCompletion]], filters: dict[str, Any], fits: Any
) -> None:
    assert sorted(names(listed(index, **filters))) == sorted(name for name, rows in by_group.items() if fits(rows))


def test_what_can_be_chosen_is_there(index: RolloutIndex, by_group: dict[Group, list[ScoredCompletion]]) -> None:
    offered = choices(index)
    faults = {fault for rows in by_group.values() for row in rows for fault in row.faults}
    assert {entry["value"] for entry in offered["fault"]} == faults
    for name, entries in offered.items():
        for entry in entries:
            assert len(listed(index, **{name: entry["value"]})) == entry["groups"]


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_lists_every_group_page_by_page(index: RolloutIndex, order: str) -> None:
    pages = [groups(index, Filters(), order, limit=7, offset=start)["groups"] for start in range(0, 24, 7)]
    assert [entry for page in pages for entry in page] == listed(index, order)


def test_steps_and_history_are_means_over_completions(
    index: RolloutIndex, by_group: dict[Group, list[ScoredCompletion]]
) -> None:
    for entry in steps(index):
        rows = [row for (step, _), group in by_group.items() if step == entry["step"] for row in group]
        assert (entry["completions"], entry["reward"]) == (len(rows), pytest.approx(mean(rows)))
    prompt = "phantom_0000"
    assert [(entry["step"], entry["reward"]) for entry in history(index, prompt)] == [
        (step, pytest.approx(mean(rows))) for (step, name), rows in sorted(by_group.items()) if name == prompt
    ]


def test_a_run_that_goes_on_is_followed(copy: Path) -> None:
    index = RolloutIndex(copy)
    index.refresh()
    revision, before = index.revision, steps(index)
    index.refresh()
    assert index.revision == revision
    rows = read(step_file(copy / "rollouts", 3))
    write([row.model_copy(update={"step": 4}) for row in rows], step_file(copy / "rollouts", 4))  # a new step
    write(rows[:4], step_file(copy / "rollouts", 3))  # written again after a resume
    step_file(copy / "rollouts", 0).unlink()
    index.refresh()
    assert index.revision == revision + 1
    assert [(entry["step"], entry["completions"]) for entry in steps(index)] == [
        *((entry["step"], entry["completions"]) for entry in before[1:3]),
        (3, 4),
        (4, len(rows)),
    ]


def test_a_damaged_file_is_named_and_what_was_read_before_stays(copy: Path) -> None:
    index = RolloutIndex(copy)
    index.refresh()
    step_file(copy / "rollouts", 9).write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"can't read the completions in .*remove the damaged file"):
        index.refresh()
    assert len(steps(index)) == 4


def test_the_pieces_of_tokens_join_to_the_text(run: Path) -> None:
    tokenizer = load_tokenizer(run)
    assert tokenizer is not None
    for row in read(step_file(run / "rollouts", 0)):
        assert row.token_ids is not None
        found = pieces(tokenizer, row.token_ids)
        assert len(found) == row.tokens
        assert "".join(found).removesuffix("<|im_end|>") == row.text


@given(text=st.text(max_size=30), cut=st.integers(0, 3))
def test_characters_of_several_tokens_are_whole_also_where_they_are_cut(text: str, cut: int, run: Path) -> None:
    tokenizer = load_tokenizer(run)
    assert tokenizer is not None
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    ids = ids[: len(ids) - cut]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=False)


@given(st.text("ab \n.", max_size=40), st.text("ab \n.", max_size=40))
def test_differences_hold_both_texts(before: str, after: str) -> None:
    runs = differences(before, after)
    assert "".join(text for kind, text in runs if kind != "added") == before
    assert "".join(text for kind, text in runs if kind != "removed") == after


def test_words_that_stay_are_no_difference() -> None:
    assert differences("a typical network", "an atypical network") == [
        ("removed", "a"),
        ("added", "an"),
        ("same", " "),
        ("removed", "typical"),
        ("added", "atypical"),
        ("same", " network"),
    ]


def test_curves_of_a_family_share_a_chart_and_long_ones_are_thinned(tmp_path: Path) -> None:
    lines = [{"step": n, "time": n, "reward/total": n / 1000, "reward/format": 1.0, "loss": n} for n in range(1, 1001)]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    charts = {chart["title"]: chart for chart in curves(tmp_path)}
    assert set(charts) == {"reward", "loss"}
    assert [series["name"] for series in charts["reward"]["series"]] == ["total", "format"]
    (loss,) = charts["loss"]["series"]
    assert len(loss["values"]) <= MAX_POINTS
    assert (loss["steps"][0], loss["values"][0], charts["loss"]["stride"]) == (3, 2.0, 3)
    assert (loss["steps"][-1], loss["last"]) == (1000, 1000.0)
    assert curves(tmp_path / "absent") == []


def test_a_fault_that_an_update_does_not_name_did_not_occur_in_it(tmp_path: Path) -> None:
    lines = [{"step": 1, "time": 1.0}, {"step": 2, "time": 2.0, "faults/wrong_keys": 0.5}, {"step": 3, "time": 3.0}]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (chart,) = curves(tmp_path)
    (series,) = chart["series"]
    assert (series["steps"], series["values"], series["last"]) == ([1, 2, 3], [0.0, 0.5, 0.0], 0.0)


@pytest.fixture
def client(run: Path) -> Iterator[TestClient]:
    with TestClient(build_app(run), base_url="http://127.0.0.1") as client:
        yield client


def test_a_group_is_told_with_its_image_and_every_reason(
    client: TestClient, by_group: dict[Group, list[ScoredCompletion]]
) -> None:
    faulty = next(name for name, rows in by_group.items() if any(row.faults for row in rows))
    told = client.get("/api/group", params={"step": faulty[0], "prompt": faulty[1]}).json()
    rows = by_group[faulty]
    assert [entry["text"] for entry in told["completions"]] == [row.text for row in rows]
    for entry, row in zip(told["completions"], rows, strict=True):
        assert sum(term["adds"] for term in entry["terms"]) == pytest.approx(row.reward)
        assert [fault["reason"] for fault in entry["faults"]] == [
            FaultCosts.model_fields[fault].description for fault in dict.fromkeys(row.faults)
        ]
        assert len(entry["token_level"]["pieces"]) == len(entry["token_level"]["learner"]) == row.tokens
        assert entry["token_level"]["engine"] == pytest.approx(row.token_logprobs, abs=1e-4)
    assert told["findings"][0]["reference"] == rows[0].truth.final_label
    assert all(len(finding["answers"]) == len(rows) for finding in told["findings"])
    assert client.get(f"/image/{told['image']}").headers["content-type"] == "image/png"


def test_the_gate_is_explained_by_what_closed_it(by_group: dict[Group, list[ScoredCompletion]]) -> None:
    rows = [row for group in by_group.values() for row in group]
    for row in rows:
        assert (gate_reason(row, RewardConfig()) is not None) == lost_to_gate(row)
    gated = next(row for row in rows if lost_to_gate(row))
    morphology = gated.terms["morphology"]
    assert gate_reason(gated, RewardConfig()) == (
        f"diagnosis and taxonomy count to {100 * gated.gate:.0f} %: morphology is {morphology:.2f}, full from 0.5 on."
    )


def test_two_completions_of_a_prompt_are_compared(
    client: TestClient, by_group: dict[Group, list[ScoredCompletion]]
) -> None:
    at = [step for step, name in sorted(by_group) if name == "phantom_0000"]
    asked = {"prompt": "phantom_0000", "step": at[1], "sample": 1, "other_step": at[0], "other_sample": 2}
    runs = client.get("/api/differences", params=asked).json()["runs"]
    assert "".join(text for kind, text in runs if kind != "added") == by_group[at[0], "phantom_0000"][2].text
    assert "".join(text for kind, text in runs if kind != "removed") == by_group[at[1], "phantom_0000"][1].text
    assert client.get("/api/differences", params=asked | {"sample": 99}).status_code == 404


def test_a_run_without_columns_of_tokens_is_shown_without_them(copy: Path) -> None:
    bare = {"token_ids": None, "token_logprobs": None, "token_versions": None, "learner_logprobs": None}
    rows = read(step_file(copy / "rollouts", 0))
    write([row.model_copy(update=bare) for row in rows], step_file(copy / "rollouts", 0))
    client = TestClient(build_app(copy), base_url="http://127.0.0.1")
    told = client.get("/api/group", params={"step": 0, "prompt": rows[0].prompt_id}).json()
    assert [entry["token_level"] for entry in told["completions"]] == [None] * 4


@pytest.mark.parametrize("path", ["/", "/api/run", "/static/app.js", "/image/absent.png"])
def test_no_answer_lets_a_browser_fetch_or_run_anything_from_elsewhere(client: TestClient, path: str) -> None:
    policy = client.get(path).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/image/../config.yaml",
        "/image/..%2Fconfig.yaml",
        "/image/%2e%2e/%2e%2e/run/config.yaml",
        "/image//etc/passwd",
        "/static/../api.py",
        "/static/..%2Fapi.py",
    ],
)
def test_nothing_outside_the_prepared_folder_is_given_out(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_name_from_elsewhere_that_leads_here_is_not_answered(run: Path) -> None:
    app = build_app(run)
    assert TestClient(app, base_url="http://evil.example").get("/api/run").status_code == 421
    assert TestClient(app, base_url="http://localhost").get("/api/run").status_code == 200
    assert TestClient(app, base_url="http://[::1]").get("/api/run").status_code == 200
    assert TestClient(build_app(run, host="0.0.0.0"), base_url="http://node-3").get("/api/run").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/group?step=0&prompt=absent", 404),
        ("/api/groups?order=sideways", 422),
        ("/api/groups?limit=100000", 422),
        ("/api/group?step=first&prompt=p", 422),
        ("/image/images/0000.png?side=5000", 404),
    ],
)
def test_what_is_not_there_is_said(client: TestClient, path: str, status: int) -> None:
    assert client.get(path).status_code == status


def test_folders_that_are_no_run_are_one_readable_error(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(UserError, match=r"is no run directory: config\.yaml is missing"):
        build_app(tmp_path)
    (tmp_path / "config.yaml").write_text("steps: 3")
    with pytest.raises(UserError, match=r"is not of a run of jobs\.mavic"):
        build_app(tmp_path)


def test_a_run_that_has_just_begun_is_empty(copy: Path) -> None:
    shutil.rmtree(copy / "rollouts")
    (copy / METRICS).unlink()
    client = TestClient(build_app(copy), base_url="http://127.0.0.1")
    assert client.get("/api/run").json()["steps"] == []
    assert client.get("/api/groups").json() == {"total": 0, "groups": []}
    assert client.get("/api/curves").json() == []


def test_the_rows_of_one_prompt_are_read_alone(run: Path, by_group: dict[Group, list[ScoredCompletion]]) -> None:
    (step, prompt), rows = next(iter(by_group.items()))
    assert read_prompt(step_file(run / "rollouts", step), prompt) == rows


def test_the_made_up_run_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_run(tmp_path / name, steps=1, groups=2, group_size=2, prompts=2)
    assert read(tmp_path / "one/rollouts") == read(tmp_path / "other/rollouts")
