"""Small benchmarks, and responses to them, for the tests of measuring and reporting."""

from pathlib import Path

from PIL import Image

from dermo_ray.bench.responses import Response, Step, Vote
from dermo_ray.bench.tasks import BenchItem, Facts, Items, Question, TaskId
from dermo_ray.bench.tasks.items import LETTERS
from dermo_ray.config.bench import BenchSettings, Method

LABELS = ("Melanoma", "Blue Nevus", "Basal Cell Carcinoma", "Dermatofibroma")


def settings(folder: Path, **values: object) -> BenchSettings:
    """Settings of a benchmark of one server that nobody asks."""
    policy = {"name": "policy", "endpoint": {"base_url": "http://localhost:1/v1", "model": "m"}}
    common = {
        "out": folder / "out",
        "cache": folder / "cache.sqlite",
        "items": {"prepared": folder},
        "policies": [policy],
        "resamples": 200,
    }
    return BenchSettings.model_validate(common | values)


def choice_item(
    name: str, right: int = 0, task: TaskId = "t2.1", images: tuple[str, ...] = (), **facts: object
) -> BenchItem:
    options = "\n".join(f"{letter}) {label}" for letter, label in zip(LETTERS, LABELS, strict=False))
    return BenchItem(
        id=f"{task}/{name}",
        task=task,
        images=images,
        questions=(Question(text=f"Which?\n{options}", options=LABELS, right=right),),
        reference=f"{LETTERS[right]}) {LABELS[right]}",
        facts=Facts.model_validate({"label": LABELS[right], "modality": "dermoscopic", **facts}),
    )


def walk_item(name: str = "0", images: tuple[str, ...] = ()) -> BenchItem:
    first, second = ("Neoplasms", "Infections"), ("Melanoma", "Nevus", "Cyst")
    return BenchItem(
        id=f"t2.3/{name}",
        task="t2.3",
        images=images,
        questions=(
            Question(text='Which: "Neoplasms", "Infections"?', options=first, right=0),
            Question(text='Narrow it down: "Melanoma", "Nevus", "Cyst"?', options=second, right=1),
        ),
        reference="Nevus",
        facts=Facts(label="Nevus", modality="clinical"),
    )


def open_item(name: str = "0", task: TaskId = "t3.2", images: tuple[str, ...] = ()) -> BenchItem:
    return BenchItem(
        id=f"{task}/{name}",
        task=task,
        images=images,
        questions=(Question(text="Describe it."),),
        reference="<reasoning>An atypical network.</reasoning>\n<final_diagnosis>Melanoma</final_diagnosis>",
        facts=Facts(label="Melanoma", modality="dermoscopic"),
    )


def response(
    item: BenchItem,
    said: str,
    method: Method = "greedy",
    confidence: float = 0.9,
    tokens: int = 10,
    rollouts: int = 1,
) -> Response:
    """One answer to an item with one question; `said` is the text, of which the option is read."""
    answer = said.partition(") ")[2] or said
    return Response(
        item=item.id,
        method=method,
        texts=(said,),
        steps=(
            Step(
                answer=answer,
                confidence=confidence,
                posterior={} if method == "greedy" else {answer: confidence},
                votes=()
                if method == "greedy"
                else (Vote(view="identity", answer=answer, confidence=1, weight=1),) * rollouts,
                planned=8,
                prompt_tokens=100 * rollouts,
                completion_tokens=tokens,
                seconds=0.5,
            ),
        ),
    )


def lettered(place: int) -> str:
    return f"{LETTERS[place]}) {LABELS[place]}"


def found(items: list[BenchItem]) -> dict[TaskId, Items]:
    """The items by task."""
    by_task: dict[TaskId, list[BenchItem]] = {}
    for item in items:
        by_task.setdefault(item.task, []).append(item)
    return {task: Items(given, {}) for task, given in by_task.items()}


def picture(folder: Path, name: str = "0.png", colour: tuple[int, int, int] = (200, 150, 140)) -> str:
    """The path of an image file."""
    path = folder / name
    Image.new("RGB", (32, 32), colour).save(path)
    return str(path)
