"""What the concept model learns of phantoms in five minutes on two cores: `python -m benchmarks.concepts [FOLDER]`.

Draws phantoms of both modalities with `jobs.prepare`, trains with `jobs.concepts`, both with the settings below, and
measures on phantoms that neither training nor calibration saw: field accuracy, AUROC, and how well the consistency term
tells true from shuffled pairs of image and completion. Writes `benchmarks/results/concepts.json`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from dermo_ray.bench.statistics import bootstrap_statistic
from dermo_ray.completion import Completion, render
from dermo_ray.config import RewardConfig
from dermo_ray.config.concepts import ConceptsConfig
from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.data.corpus import SAMPLES_FILE
from dermo_ray.data.samples import StoredSample
from dermo_ray.data.tables import stored_samples
from dermo_ray.models.concepts import ConceptScorer
from dermo_ray.models.concepts.ranking import auroc
from dermo_ray.models.concepts.scores import MEASURES
from dermo_ray.records import GroundTruth
from jobs import concepts, prepare
from jobs.cluster import ray_session
from rewards import mavic_reward

_IMAGES = 9_100
"""About 8,000 to train on, half of each modality; the rest to validate and to test."""
_EPOCHS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/benchmark-concepts"))
    folder = parser.parse_args().folder.absolute()
    data, run = folder / "data", folder / "run"
    with ray_session(num_cpus=2):
        prepare.run(
            PrepareConfig.model_validate(
                {
                    "source": "phantoms",
                    "count": _IMAGES,
                    "out": data,
                    "images": {"encoding": "png"},
                    "split": {"val": 0.06, "test": 0.06},
                }
            )
        )
        began = time.perf_counter()
        concepts.run(
            ConceptsConfig.model_validate({"run": run, "data": data, "epochs": _EPOCHS, "pool": {"workers": 2}})
        )
        seconds = time.perf_counter() - began
    measures = json.loads((run / MEASURES).read_text())
    table = pq.read_table(data / SAMPLES_FILE)
    trained, tested = (list(stored_samples(table.filter(pc.equal(table["split"], s)))) for s in ("train", "test"))
    scores = measures["concepts"]["annotation"]
    result = {
        "command": "python -m benchmarks.concepts",
        "machine": describe(),
        "images": {
            split: {m: sum(s.modality == m for s in samples) for m in ("dermoscopic", "clinical")}
            for split, samples in (("train", trained), ("test", tested))
        },
        "seconds": round(seconds, 1),
        "derm7pt_mean_field_accuracy": scores["derm7pt"]["mean_accuracy"],
        "skincon_mean_auroc": scores["skincon"]["mean_auroc"],
        "diagnosis": measures["diagnosis"],
        "calibration": measures["calibration"],
        "consistency": _told_apart(ConceptScorer.of(run / "checkpoints/latest/model"), tested, data),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "concepts.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in result if key not in ("machine", "calibration")}, indent=2))


def _told_apart(scorer: ConceptScorer, samples: list[StoredSample], data: Path) -> dict[str, Any]:
    """AUROC of the consistency term: each image with its own true completion against that of the next image."""
    result: dict[str, Any] = {}
    for modality in sorted({sample.modality for sample in samples}):
        of_modality = [sample for sample in samples if sample.modality == modality]
        texts = [render(Completion("task3", "Seen.", s.morphology, None, s.label)) for s in of_modality]
        own, others = [], []
        for number, sample in enumerate(of_modality):
            with Image.open(data / sample.image) as image:
                seen = scorer.concepts(image)
            truth = GroundTruth(task="task3", modality=modality, final_label=sample.label)
            for terms, text in ((own, texts[number]), (others, texts[number - 1])):
                terms.append(mavic_reward(text, truth, RewardConfig(), seen).terms["consistency"])
        pairs = np.repeat([1, 0], len(own))
        interval = bootstrap_statistic([pairs, np.array(own + others)], auroc, groups=np.tile(np.arange(len(own)), 2))
        result[modality] = {
            "auroc": interval.mean,
            "ci95": [interval.low, interval.high],
            "mean_true": float(np.mean(own)),
            "mean_shuffled": float(np.mean(others)),
        }
    return result


if __name__ == "__main__":
    main()
