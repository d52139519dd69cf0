"""From answers to the measures of a task, on fixtures worked by hand."""

import time

import pytest

from dermo_ray.bench.tasks import TASKS, Answer, BenchItem, Facts, Question, aggregate, score, score_all

OPTIONS = ("Nevus", "Melanoma", "Cyst", "Milia")


def item(name: str, task: str = "t2.1", right: int = 0, **facts) -> BenchItem:
    return BenchItem(
        id=f"{task}/{name}",
        task=task,
        images=(),
        questions=(Question(text="Which?", options=OPTIONS, right=right),),
        reference=f"{'ABCD'[right]}) {OPTIONS[right]}",
        facts=Facts(**facts),
    )


def result(items: list[BenchItem], said: str):
    answers = [Answer(item=one.id, texts=(letter,)) for one, letter in zip(items, said, strict=True)]
    return aggregate(items, score_all(items, answers))


@pytest.mark.parametrize("task", ["t2.1", "t2.2"])
def test_a_diagnosis_task_is_worth_its_accuracy(task):
    items = [item(str(n), task, right=n % 2, label=OPTIONS[n % 2]) for n in range(4)]
    found = result(items, "ABAA")
    assert (found.metric, found.value, found.items) == ("accuracy", 0.75, 4)
    assert {label: tally.accuracy for label, tally in found.by["label"].items()} == {"Nevus": 1.0, "Melanoma": 0.5}


@pytest.mark.parametrize("task", ["t1.3", "t1.4"])
def test_attribute_tasks_report_the_mean_over_concepts_beside_the_accuracy(task):
    concepts = ["Plaque", "Plaque", "Plaque", "Plaque", "Scale"]
    found = result([item(str(n), task, concept=concept) for n, concept in enumerate(concepts)], "AAABB")
    assert found.value == found.measures["accuracy"] == pytest.approx(3 / 5)
    assert found.measures["macro_accuracy"] == pytest.approx((3 / 4 + 0 / 1) / 2)


def test_out_of_distribution_is_the_mean_over_data_sets_whatever_their_size():
    subsets = ["ddi"] * 4 + ["snu134"] * 2 + ["derm7pt"]
    found = result([item(str(n), "t2.4", subset=subset) for n, subset in enumerate(subsets)], "AABBABB")
    assert found.metric == "mean_subset_accuracy"
    assert found.value == pytest.approx((2 / 4 + 1 / 2 + 0 / 1) / 3)
    assert found.measures["accuracy"] == pytest.approx(3 / 7)


def test_fairness_is_the_worst_group_over_the_best_and_rows_without_a_tone_are_counted():
    tones = ["12", "12", "12", "12", "34", "34", "56", "56", None]
    found = result([item(str(n), "t4", skin_tone=tone) for n, tone in enumerate(tones)], "AAAABAAAA")
    assert found.value == pytest.approx(0.5)
    assert found.value == pytest.approx(1 - (1.0 - 0.5) / 1.0)
    assert found.measures == pytest.approx({"accuracy": 8 / 9, "fairness": 0.5, "gap": 0.5})
    assert {tone: (tally.right, tally.count) for tone, tally in found.by["skin_tone"].items()} == {
        "12": (4, 4),
        "34": (1, 2),
        "56": (2, 2),
    }
    assert found.unknown == {"skin_tone": 1}


@pytest.mark.parametrize(("said", "value"), [("BBBB", 0.0), ("AABB", 0.0), ("ABAB", 1.0), ("AAAA", 1.0)])
def test_fairness_is_zero_where_a_group_has_nothing_right_and_one_where_all_are_alike(said, value):
    items = [item(str(n), "t4", skin_tone="12" if n < 2 else "56") for n in range(4)]
    assert result(items, said).value == value


def test_every_item_counts_whether_it_was_answered_or_not():
    items = [item(str(n)) for n in range(4)]
    scored = score_all(items, [Answer(item=items[2].id, texts=("A",)), Answer(item="t2.1/other", texts=("A",))])
    found = aggregate(items, scored)
    assert (found.value, found.items, found.faults) == (0.25, 4, {"no_answer": 3})


def test_scores_and_items_must_belong_together():
    items = [item("1"), item("2")]
    scored = score_all(items, [])
    with pytest.raises(ValueError, match="in their order"):
        aggregate(items, scored[::-1])
    with pytest.raises(ValueError, match="items of one task"):
        aggregate([], [])
    mixed = [item("1"), item("1", "t2.2")]
    with pytest.raises(ValueError, match="items of one task"):
        aggregate(mixed, score_all(mixed, []))
    with pytest.raises(ValueError, match=r"answers t2\.1/2"):
        score(items[0], Answer(item=items[1].id, texts=("A",)))
    with pytest.raises(ValueError, match="has 1 questions"):
        score(items[0], Answer(item=items[0].id, texts=("A", "B")))


def test_the_whole_benchmark_is_scored_in_seconds():
    said = ["A", "The vessels are arborizing, the network atypical.\nAnswer: B) Melanoma", "Nevus", "no idea " * 40]
    start = time.process_time()
    count = 0
    for task in TASKS.values():
        scored_as = task.id if task.scoring == "choice" else "t2.1"
        items = [
            item(str(n), scored_as, right=n % 4, concept=str(n % 48), subset=str(n % 4), skin_tone="12")
            for n in range(task.items)
        ]
        answers = [Answer(item=one.id, texts=(f"{said[n % 4]} {n}",)) for n, one in enumerate(items)]
        count += aggregate(items, score_all(items, answers)).items
    assert count == 33_999
    assert time.process_time() - start < 10
