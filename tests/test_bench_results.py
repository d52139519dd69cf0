"""From responses to `bench.json` and its page, on cases worked by hand."""

import asyncio
import html
import json
import re

import pytest

from dermo_ray.asking.answering import Tally
from dermo_ray.bench.assemble import Answered, Measured, bench_report
from dermo_ray.bench.columns import columns
from dermo_ray.bench.confusion import OTHER, confusion
from dermo_ray.bench.judging import judge_all, judge_offline, open_answers
from dermo_ray.bench.published import published
from dermo_ray.bench.results import BenchReport
from dermo_ray.bench.tasks import TASKS
from dermo_ray.config.judge import JudgeSettings
from dermo_ray.report.bench import bench_page
from dermo_ray.report.card import model_card
from dermo_ray.report.cases import cases
from dermo_ray.report.figures import figures_of, headline, ours_beside
from dermo_ray.taxonomy import Taxonomy
from jobs.benchmark import table_rows
from tests import openai_stub
from tests.bench_cases import LABELS, choice_item, found, lettered, open_item, picture, response, settings, walk_item

TREE = Taxonomy.load()


def report(tmp_path, items, *policies, **values) -> BenchReport:
    """Of policies with these responses, called "first", "second"."""
    return measured(tmp_path, items, *policies, **values).report


def measured(tmp_path, items, *policies, compat: bool = False, **values) -> Measured:
    answered = [
        Answered(name, "somewhere", "fingerprint", given, Tally())
        for name, given in zip(("first", "second"), policies, strict=False)
    ]
    pairs = [pair for given in (*policies, []) for pair in open_answers(items, given)]
    said = {made.method for given in policies for made in given}
    methods = ["greedy", *(["majority"] if said - {"greedy"} else []), *sorted(said - {"greedy", "majority"})]
    return bench_report(
        found(items),
        answered,
        judge_offline(pairs, TREE),
        None,
        settings(tmp_path, methods=methods, **values),
        TREE,
        compat=compat,
    )


def test_methods_are_measured_and_compared_on_the_same_questions(tmp_path):
    items = [choice_item(str(n), right=n % 4) for n in range(8)]
    greedy = [response(item, lettered(0), "greedy", confidence=0.6) for item in items]  # 2 of 8
    cct = [response(item, lettered(n % 4 if n < 6 else 0), "cct", 0.9, 80, 8) for n, item in enumerate(items)]  # 6
    early = [response(item, lettered(n % 4 if n < 6 else 0), "cct_early", 0.9, 40, 4) for n, item in enumerate(items)]
    (policy,) = report(tmp_path, items, [*greedy, *cct, *early]).policies
    task = policy.tasks["t2.1"]
    assert {name: m.accuracy.mean for name, m in task.methods.items()} == {
        "greedy": 0.25,
        "majority": 0.0,  # nothing was answered by it
        "cct": 0.75,
        "cct_early": 0.75,
    }
    assert task.methods["greedy"].calibration.ece["equal_width"].mean == pytest.approx(0.35)
    assert task.methods["cct"].calibration.ece["equal_width"].mean == pytest.approx(0.15)
    cost = task.methods["cct"].cost
    assert (cost.completion_tokens, cost.prompt_tokens, cost.rollouts, cost.seconds_median) == (80, 800, 8, 0.5)
    pairs = {(pair.before, pair.after): pair for pair in task.differences}
    assert pairs.keys() >= {("greedy", "cct_early"), ("majority", "cct_early"), ("majority", "cct")}
    gain, stopping = pairs["greedy", "cct"], pairs["cct", "cct_early"]
    assert (gain.before, gain.after, gain.comparison.difference.mean) == ("greedy", "cct", 0.5)
    assert (gain.comparison.mcnemar.only_before, gain.comparison.mcnemar.only_after) == (0, 4)
    assert (stopping.after, stopping.tokens_saved, stopping.comparison.difference.mean) == ("cct_early", 0.5, 0.0)


def test_what_was_not_answered_is_wrong_and_unsure(tmp_path):
    items = [choice_item(str(n)) for n in range(4)]
    given = [response(item, lettered(0)) for item in items[:3]]
    found_columns = columns(items, given, TREE)
    assert list(found_columns.right) == [True, True, True, False]
    assert list(found_columns.confidence) == [0.9, 0.9, 0.9, 0.0]
    (policy,) = report(tmp_path, items, given).policies
    assert policy.tasks["t2.1"].methods["greedy"].accuracy.mean == 0.75
    assert policy.tasks["t2.1"].greedy.faults == {"no_answer": 1}


def test_every_measure_of_a_task_has_an_interval(tmp_path):
    concepts = [choice_item(str(n), n % 2, "t1.4", concept=("Scale", "Plaque")[n % 2]) for n in range(4)]
    outside = [choice_item(str(n), n % 2, "t2.4", subset=("ddi", "snu134")[n % 2]) for n in range(4)]
    tones = [choice_item(str(n), n % 2, "t4", skin_tone=("12", "56")[n % 2]) for n in range(4)]
    walks = [walk_item(str(n)) for n in range(4)]
    items = [*concepts, *outside, *tones, *walks]
    given = [response(item, lettered(0)) for item in items if item.task != "t2.3"]
    (policy,) = report(tmp_path, items, given).policies
    for name, task in policy.tasks.items():
        assert task.intervals.keys() == task.greedy.measures.keys(), name
        for measure, value in task.intervals.items():
            assert value.mean == pytest.approx(task.greedy.measures[measure]), (name, measure)
    assert policy.tasks["t4"].fairness["greedy"].groups["56"].mean.mean == 0.0
    assert policy.macro["all tasks with options"].mean == pytest.approx((0.5 + 0.5 + 0.5 + 0.0) / 4)


def test_reasoning_has_a_diagnosis_that_is_right_or_wrong_and_a_score(tmp_path):
    items = [open_item(str(n)) for n in range(2)]
    said = "<reasoning>An atypical network.</reasoning>\n<final_diagnosis>{}</final_diagnosis>"
    given = [
        response(items[0], said.format("Malignant Melanoma")).model_copy(
            update={"steps": (response(items[0], "Malignant Melanoma").steps[0],)}
        ),
        response(items[1], said.format("Blue Nevus")).model_copy(
            update={"steps": (response(items[1], "Blue Nevus").steps[0],)}
        ),
    ]
    (policy,) = report(tmp_path, items, given).policies
    task = policy.tasks["t3.2"]
    assert task.methods["greedy"].accuracy.mean == 0.5  # a synonym is right
    assert task.scores["greedy"].judged_by == "offline"
    assert 50 < task.scores["greedy"].score.mean < 100
    assert task.confusion.counts[task.confusion.names.index("Melanoma")][task.confusion.names.index("Blue Nevus")] == 1
    assert headline(task)[0] == "offline, not the paper's"


def test_compatible_scoring_stands_beside_ours(tmp_path):
    items = [choice_item(str(n), right=2) for n in range(2)]
    given = [response(items[0], "Certainly not."), response(items[1], lettered(2))]
    found_report = report(tmp_path, items, given, compat=True)
    task = found_report.policies[0].tasks["t2.1"]
    assert (task.greedy.value, task.compat.value) == (0.5, 1.0)  # the scripts take "Certainly" for C
    rows = ours_beside(found_report)
    column = list(published().columns).index("t2.1")
    assert (rows["first"][column].mean, rows["first, compat"][column].mean) == (50.0, 100.0)
    assert (rows["first"][column].low, rows["first"][column].high) == (0.0, 100.0)
    assert [(figure.name, figure.value) for figure in figures_of(task, "greedy")] == [
        ("accuracy", 0.5),
        ("accuracy, compat", 1.0),
    ]
    assert "compat <span" in bench_page(found_report, {"first": []})


def test_every_further_policy_is_compared_with_the_first(tmp_path):
    items = [choice_item(str(n)) for n in range(4)]
    worse = [response(item, lettered(n % 2)) for n, item in enumerate(items)]
    better = [response(item, lettered(0)) for item in items]
    (comparison,) = report(tmp_path, items, worse, better).comparisons
    assert (comparison.before, comparison.after, comparison.method) == ("first", "second", "greedy")
    assert comparison.tasks["t2.1"].difference.mean == 0.5


def test_tasks_that_share_images_are_resampled_together(tmp_path):
    """A second task with the same answers about the same lesions adds no certainty."""
    items = [
        choice_item(f"{lesion}", task=task, right=lesion % 2, group=f"lesion {lesion}")
        for task in ("t2.1", "t2.2")
        for lesion in range(60)
    ]
    said = [response(item, lettered(0)) for item in items]
    (policy,) = report(tmp_path, items, said, resamples=4000).policies
    macro, single = policy.macro["in-distribution diagnosis (t2.1 to t2.3)"], policy.tasks["t2.1"].intervals["accuracy"]
    assert macro.mean == 0.5
    assert macro.high - macro.low == pytest.approx(single.high - single.low, rel=0.1)


def test_scores_of_open_tasks_are_compared_on_the_items_that_both_have(tmp_path):
    items = [open_item(str(n), task) for task in ("t1.1", "t3.2") for n in range(6)]
    right, wrong = items[0].reference, "<reasoning>Nothing.</reasoning><final_diagnosis>Scabies</final_diagnosis>"
    worse = [response(item, right if n % 2 else wrong) for n, item in enumerate(items)]
    better = [response(item, right) for item in items]
    made = report(tmp_path, items, worse, better)
    (comparison,) = made.comparisons
    assert comparison.scores.keys() == {"t1.1", "t3.2"}
    for task, found_ in comparison.scores.items():
        means = [policy.tasks[task].scores["greedy"].score.mean for policy in made.policies]
        assert (found_.items, found_.mcnemar) == (6, None)
        assert found_.difference.mean == pytest.approx(means[1] - means[0])
        assert found_.difference.low > 0
    assert "t1.1 open description, score of 100" in bench_page(made, {"first": [], "second": []})
    # an answer that the judge gave no verdict on counts on neither side
    pairs = [pair for given in (worse, better) for pair in open_answers(items, given)]
    judged = {**judge_offline(pairs, TREE), open_answers(items[:1], worse)[0].answer: None}
    answered = [Answered(name, "here", "f", given, Tally()) for name, given in (("a", worse), ("b", better))]
    again = bench_report(found(items), answered, judged, None, settings(tmp_path, methods=["greedy"]), TREE).report
    assert again.comparisons[0].scores["t1.1"].items == 3


def test_adaptation_is_reported_beside_plain_cct_where_it_is_asked_for(tmp_path):
    items = [choice_item(str(n)) for n in range(20)]
    given = []
    for n, item in enumerate(items):
        unsure = {"Melanoma": 0.45, "Blue Nevus": 0.55} if n < 4 else {"Melanoma": 0.95, "Blue Nevus": 0.05}
        made = response(item, lettered(1 if n < 4 else 0), "cct", max(unsure.values()))
        given.append(made.model_copy(update={"steps": (made.steps[0].model_copy(update={"posterior": unsure}),)}))
    greedy = [response(item, lettered(0)) for item in items]
    plain = report(tmp_path, items, [*greedy, *given]).policies[0].tasks["t2.1"]
    assert plain.adapted is None
    asked = {"adaptation": {"prior_shift": True, "min_items": 10}}
    task = report(tmp_path, items, [*greedy, *given], cct=asked).policies[0].tasks["t2.1"]
    assert task.methods["cct"].accuracy.mean == 0.8
    assert (task.adapted.accuracy.before.mean, task.adapted.accuracy.after.mean) == (0.8, 1.0)
    assert task.adapted.priors["all"]["Melanoma"] > 0.95


def test_confusion_follows_the_tree_and_keeps_answers_outside_it():
    found_matrix = confusion(["Melanoma", "Melanoma", "nonsense"], ["Blue Nevus", "no idea", "Melanoma"], TREE)
    assert found_matrix.names[-1] == OTHER
    row = found_matrix.counts[found_matrix.names.index("Melanoma")]
    assert sum(row) == 2
    assert (row[found_matrix.names.index("Blue Nevus")], row[-1]) == (1, 1)
    assert found_matrix.outside == {"nonsense": 1}
    assert confusion(["nonsense"], ["Melanoma"], TREE) is None


def test_confusion_of_many_labels_is_that_of_their_categories():
    labels = list(TREE.labels)
    matrix = confusion(labels, labels, TREE)
    assert len(matrix.names) <= 40
    assert sum(map(sum, matrix.counts)) == len(labels)
    assert all(count == 0 for i, row in enumerate(matrix.counts) for j, count in enumerate(row) if i != j)


def test_the_papers_table_has_a_figure_for_every_column():
    table = published()
    assert all(len(row) == len(table.columns) for row in table.rows.values())
    assert {name.partition("/")[0] for name in table.columns} <= set(TASKS)
    # the averages that the paper is quoted for elsewhere
    assert sum(table.rows["DermoGPT-SFT"][4:]) / 4 == pytest.approx(64.19, abs=0.01)
    assert sum(table.rows["DermoGPT-RL + CCT"][4:]) / 4 == pytest.approx(66.48, abs=0.01)


def test_cases_are_right_and_wrong_in_turn(tmp_path):
    image = picture(tmp_path)
    items = [choice_item(str(n), images=(image,)) for n in range(6)]
    given = [response(item, lettered(0 if n < 3 else 1)) for n, item in enumerate(items)]
    answers = measured(tmp_path, items, given).answers["first"]
    chosen = cases(answers, given, 4)
    assert [case.said[0].right for case in chosen] == [True, False, True, False]
    assert chosen[0].image.startswith("data:image/")
    assert len(cases(answers, given, 99)) == 6
    assert cases(answers, given, 0) == []


def test_the_page_holds_everything_and_trusts_no_answer(tmp_path):
    image = picture(tmp_path)
    items = [choice_item(str(n), right=n % 4, images=(image,), skin_tone=("12", "56")[n % 2]) for n in range(8)]
    items += [open_item("0", images=(image,)), walk_item("0", images=(image,))]
    greedy = [response(item, "<script>alert(1)</script>") for item in items if item.task != "t2.3"]
    cct = [response(item, lettered(0), "cct") for item in items[:8]]
    found_report, answers = measured(tmp_path, items, [*greedy, *cct], cct)
    shown = {"first": cases(answers["first"], [*greedy, *cct], 2), "second": []}
    page = bench_page(found_report, shown)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    for text in (
        "For research only",
        "DermoGPT-RL + CCT",
        found_report.comparability.split(":")[0],
        "offline comparison",
    ):
        assert text in html.unescape(page)
    assert page.count('<svg role="img"') >= 4
    assert BenchReport.model_validate_json(found_report.model_dump_json()) == found_report
    json.loads(found_report.model_dump_json())


def test_the_model_card_says_research_only_and_what_does_not_compare(tmp_path):
    items = [choice_item(str(n), skin_tone=("12", "56")[n % 2]) for n in range(4)]
    card = model_card(report(tmp_path, items, [response(item, lettered(0)) for item in items]))
    assert "Research only" in card
    assert "not a medical device" in card
    assert "Nothing here compares with the paper's figures" in card
    assert "accuracy 1.000 (1.000 to 1.000)" in card
    assert "worst over best" in card


WRONG = "<reasoning>Scale.</reasoning><final_diagnosis>Psoriasis</final_diagnosis>"


def argued(item, right: bool, method: str = "greedy"):
    """The reference as an answer to an open item, or a wrong one, with its diagnosis as read."""
    made = response(item, item.reference if right else WRONG, method)
    step = made.steps[0].model_copy(update={"answer": "Melanoma" if right else "Psoriasis"})
    return made.model_copy(update={"steps": (step,)})


def test_a_reasoning_task_is_shown_by_its_score_and_by_the_accuracy_of_its_diagnosis(tmp_path):
    items = [open_item(str(n)) for n in range(4)]
    said = [argued(item, right=True) for item in items]
    voted = [argued(item, right=False, method="cct") for item in items]
    made = report(tmp_path, items, [*said, *voted])
    task = made.policies[0].tasks["t3.2"]
    assert [(f.name, f.value) for f in figures_of(task, "greedy")] == [
        ("offline, not the paper's", 100.0),
        ("diagnosis accuracy", 1.0),
    ]
    (row,) = [line for line in model_card(made).splitlines() if line.startswith("| t3.2")]
    greedy, cct = row.split("|")[3:5]
    assert greedy.strip() == (
        "offline, not the paper's 100.000 (100.000 to 100.000); diagnosis accuracy 1.000 (1.000 to 1.000)"
    )
    assert "diagnosis accuracy 0.000" in cct
    assert "offline, not the paper's 0.000" in cct
    first, second = table_rows(task, "greedy")
    assert first == ("offline, not the paper's", "100.000", "100.000 to 100.000", *first[3:])
    assert first[4:] == ("10", "0.50")  # tokens, seconds
    assert second == ("diagnosis accuracy", "1.000", "1.000 to 1.000", "", "", "")


def test_parts_of_scores_classes_and_compatible_figures_have_intervals(tmp_path):
    items = [open_item(str(n), "t3.1") for n in range(6)]
    said = [argued(item, right=bool(n % 2)) for n, item in enumerate(items)]
    task = report(tmp_path, items, said).policies[0].tasks["t3.1"]
    for part in ("text", "diagnosis"):
        found_part = task.scores["greedy"].parts[part]
        assert found_part.low < found_part.mean < found_part.high
    f1 = task.classes["Melanoma"].f1
    assert f1.mean == pytest.approx(2 / 3)  # 3 of 6 found, all 3 answers right
    assert f1.low < f1.mean < f1.high
    fields = [choice_item(str(n), n % 3, "t1.3", concept="Streaks", group=str(n)) for n in range(30)]
    given = [response(item, lettered(n % 2)) for n, item in enumerate(fields)]
    theirs = report(tmp_path, fields, given, compat=True).policies[0].tasks["t1.3"]
    assert theirs.compat_intervals.keys() == theirs.compat.measures.keys()
    for name, shown in theirs.compat_intervals.items():
        assert shown.mean == pytest.approx(theirs.compat.measures[name])
        assert shown.low < shown.mean < shown.high


def test_equal_answers_are_judged_once(tmp_path):
    item = open_item(task="t3.1")
    verdict = {
        "claims": [{"claim": "an atypical network", "verdict": "supported"}],
        "incorrect_extras": [],
        "diagnosis": "exact_or_synonym",
    }
    given = [response(item, "An atypical network. Melanoma."), response(item, "An atypical network. Melanoma.", "cct")]
    with openai_stub.serving(lambda body, count: openai_stub.completion(json.dumps(verdict))) as server:
        judge = JudgeSettings.model_validate(
            {"endpoint": {"base_url": server.base_url, "model": "judge"}, "cache": tmp_path / "judge.sqlite"}
        )
        pairs = open_answers([item], given)
        judged, counted = asyncio.run(judge_all(pairs, judge, lambda report: None))
    assert (len(pairs), len(judged), counted.asked, len(server.bodies)) == (2, 1, 1, 1)


def test_labels_of_the_cases_are_in_the_tree():
    assert [TREE.canonical(label) for label in LABELS] == list(LABELS)
