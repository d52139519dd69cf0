"""How long the bookkeeping of a whole benchmark takes: `python -m benchmarks.bookkeeping`.

Makes 33,999 items in the shape and the numbers of DermoBench's, answers them by chance, and times everything between
answers and report: scoring, offline comparison of the open tasks, every interval, example cases, JSON, page and model
card, as `jobs.evaluate` does it. Once with a greedy answer to each, in a process of its own for the peak of memory, and
once with all four methods. Writes `benchmarks/results/bookkeeping.json`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from PIL import Image

from benchmarks.machine import describe
from dermo_ray.asking.answering import Tally
from dermo_ray.bench.assemble import Answered, bench_report
from dermo_ray.bench.judging import judge_offline, open_answers
from dermo_ray.bench.responses import Response, Step, Vote, methods_of
from dermo_ray.bench.tasks import TASKS, BenchItem, Facts, Items, Question, TaskId
from dermo_ray.bench.tasks.items import LETTERS
from dermo_ray.config.bench import BenchSettings, Method
from dermo_ray.morphology import DERM7PT_FIELDS, SKINCON_FEATURES
from dermo_ray.report.bench import write_bench_report
from dermo_ray.report.cases import cases
from dermo_ray.taxonomy import Taxonomy

RESULT = Path("benchmarks/results/bookkeeping.json")
SUBSETS = {"derm1m_edu": 3615, "ddi": 656, "derm7pt": 2022, "snu134": 240}
PROSE = "a dark flat lesion with an irregular border and several shades of brown on pale skin "


def items_of(task: TaskId, taxonomy: Taxonomy, random: Random, image: Path) -> list[BenchItem]:
    """As many items as the release has, about fewer lesions than items, as there; all show one `image`."""
    subsets = [name for name, count in SUBSETS.items() for _ in range(count)]
    made = []
    for number in range(TASKS[task].items):
        label = random.choice(taxonomy.labels)
        facts = {
            "label": label,
            "modality": random.choice(["clinical", "dermoscopic"]),
            "group": f"image-{number // 3}",
        }
        if task == "t1.3":
            concept = random.choice(list(DERM7PT_FIELDS))
            options, facts = list(DERM7PT_FIELDS[concept]), facts | {"concept": concept}
        elif task == "t1.4":
            options = random.sample(SKINCON_FEATURES, 4)
            facts |= {"concept": options[0]}
        else:
            options = [
                label,
                *random.sample([other for other in taxonomy.labels if other != label], 24 if task == "t2.2" else 3),
            ]
        if task == "t2.4":
            facts |= {"subset": subsets[number]}
        if task == "t4":
            facts |= {"skin_tone": random.choice(["12", "34", "56"])}
        if TASKS[task].scoring == "judge":
            questions: tuple[Question, ...] = (Question(text="Describe it."),)
        elif task == "t2.3":
            path = [*taxonomy.path(label), label]
            questions = tuple(Question(text="Which?", options=(step, "Other", "None"), right=0) for step in path)
        else:
            questions = (Question(text="Which?", options=tuple(options), right=0),)
        made.append(
            BenchItem(
                id=f"{task}/{number}",
                task=task,
                images=(str(image),),
                questions=questions,
                reference=f"<reasoning>{PROSE * 8}</reasoning><final_diagnosis>{label}</final_diagnosis>",
                facts=Facts.model_validate(facts),
            )
        )
    return made


def response(item: BenchItem, method: Method, random: Random) -> Response:
    """A random answer in the length and shape of a policy's."""
    texts, steps = [], []
    for question in item.questions:
        confidence = random.random()
        if question.options:
            place = 0 if random.random() < 0.7 else random.randrange(len(question.options))
            answer = question.options[place]
            texts.append(answer if item.task == "t2.3" else f"{LETTERS[place]}) {answer}")
        else:
            answer = item.facts.label or ""
            words = PROSE.split() * 8
            random.shuffle(words)
            texts.append(f"<reasoning>{' '.join(words)}</reasoning><final_diagnosis>{answer}</final_diagnosis>")
        votes = (
            ()
            if method == "greedy"
            else (Vote(view="identity", answer=answer, confidence=confidence, weight=0.125),) * 8
        )
        steps.append(
            Step(
                answer=answer,
                confidence=confidence,
                posterior={} if method == "greedy" else {answer: confidence},
                votes=votes,
                planned=8,
                prompt_tokens=300,
                completion_tokens=random.randrange(4, 300),
                seconds=random.random(),
            )
        )
    return Response(item=item.id, method=method, texts=tuple(texts), steps=tuple(steps))


def measure(methods: tuple[Method, ...]) -> dict[str, float]:
    """Seconds and peak memory of everything that follows the answers."""
    taxonomy, random = Taxonomy.load(), Random(0)
    with tempfile.TemporaryDirectory() as folder:
        settings = BenchSettings.model_validate(
            {
                "out": folder,
                "cache": Path(folder) / "cache.sqlite",
                "items": {"prepared": folder},
                "policies": [{"name": "synthetic", "endpoint": {"base_url": "http://localhost/v1", "model": "none"}}],
                "methods": methods,
            }
        )
        image = Path(folder) / "image.png"
        Image.new("RGB", (64, 64)).save(image)
        found = {task: Items(items_of(task, taxonomy, random, image), {}) for task in TASKS}
        items = [item for task in found.values() for item in task.items]
        responses = [response(item, method, random) for item in items for method in methods_of(item.task, settings)]
        started = time.perf_counter()
        judgements = judge_offline([*open_answers(items, responses), *open_answers(items, [])], taxonomy)
        answered = [Answered("synthetic", "made up", "none", responses, Tally())]
        report, answers = bench_report(found, answered, judgements, None, settings, taxonomy, compat=True)
        (Path(folder) / "bench.json").write_text(report.model_dump_json(indent=2), encoding="utf-8")
        examples = {"synthetic": cases(answers["synthetic"], responses, settings.examples)}
        page = write_bench_report(Path(folder), report, examples)
        seconds = time.perf_counter() - started
        size = page.stat().st_size
    return {
        "items": len(items),
        "answers": len(responses),
        "seconds": round(seconds, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "page_mib": round(size / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", help="measure these in this process and print the figures")
    arguments = parser.parse_args()
    if arguments.methods:
        print(json.dumps(measure(tuple(arguments.methods))))
        return
    runs = {}
    for name, methods in (("greedy", ["greedy"]), ("all_methods", ["greedy", "majority", "cct", "cct_early"])):
        command = [sys.executable, "-m", "benchmarks.bookkeeping", "--methods", *methods]
        ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs[name] = json.loads(ended.stdout.splitlines()[-1])
    result = {"command": "python -m benchmarks.bookkeeping", "machine": describe(), **runs}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
