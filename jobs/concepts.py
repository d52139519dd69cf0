"""Training of the concept model: image -> concept probabilities -> diagnosis, on what annotators wrote.

Give `run` and `data`, a prepared folder of any mix of clinical and dermoscopic images; annotations and labels may be
missing here and there. `encoder.path` starts from an image encoder of one's own. The best model, calibrated, is
`RUN/checkpoints/latest/model`; the reward takes it as `reward.concepts`. Called again, the job goes on from its latest
checkpoint, and a finished run is measured again. SIGTERM makes it finish an update, write a checkpoint and exit with
status 0.
"""

import math
from pathlib import Path

from transformers.utils import logging as transformers_logging

from actors.concepts import Assignment, Progress, train_rank
from dermo_ray import checkpoints
from dermo_ray.config.concepts import ConceptsConfig
from dermo_ray.errors import UserError
from dermo_ray.metrics import METRICS
from dermo_ray.models.concepts import load_concept_model
from dermo_ray.models.concepts.data import ConceptSamples
from dermo_ray.models.concepts.encoders import new_model
from dermo_ray.models.concepts.measures import measure
from dermo_ray.models.concepts.predictions import PREDICTIONS, evaluation_split, read_predictions
from dermo_ray.models.concepts.scores import MEASURES, ConceptMeasures
from dermo_ray.report.concepts import write_concept_report
from dermo_ray.run_directory import CHECKPOINTS, claimed
from jobs import preflight, training
from jobs.cluster import ray_session
from jobs.command import main

CONFIG = ConceptsConfig

_CHANGEABLE = ("run", "resume", "epochs", "steps", "keep_checkpoints", "validation")
"""Settings in which a resumed run may differ: how long it goes on, and how it is watched."""


def run(config: ConceptsConfig) -> None:
    """Train as `config` says, from the latest checkpoint where there is one, then measure and report.

    Raises `UserError` for a folder without prepared data, annotations or encoder, a run directory that is taken, and
    more resources than the cluster has.
    """
    samples = ConceptSamples.read(config.data, "train", config.machine_annotations)
    if not samples.annotated_schemas():
        by_machines = f" but {samples.left_out} by machines, which machine_annotations=true learns from"
        raise UserError(
            f"{config.data} has no annotated image in its train split{by_machines if samples.left_out else ''}: "
            f"there are no concepts to learn"
        )
    validation = ConceptSamples.read(config.data, "val")
    if not any(validation.targets(range(len(validation)), samples.vocabulary()).counts().values()):
        raise UserError(
            f"{config.data} has no image in its val split that a person annotated or that has a known label: "
            f"the run could not end early, nor be calibrated"
        )
    steps = config.steps or math.ceil(config.epochs * len(samples) / config.batch_size)
    with claimed(config.run, config, _CHANGEABLE) as checkpoint:
        progress = _progress(config, checkpoint)
        finished = progress.step >= steps or progress.waited >= config.validation.patience
        if not finished or not (config.run / PREDICTIONS).exists():
            new_model(config.encoder, {}, [])  # names what is wrong with the encoder before anything starts
            with ray_session():
                preflight.ensure("concepts", config)
                assignment = Assignment(config, steps, progress, checkpoint)
                with (
                    training.stoppable(config.run),
                    training.progress("concepts", config.run / METRICS, progress.step, steps),
                ):
                    training.fit(lambda: train_rank(assignment), config.pool, config.run)
        measures = _measure(config)
    print(f"{config.run}: {_summary(measures)}")


def _progress(config: ConceptsConfig, checkpoint: Path | None) -> Progress:
    """How far `checkpoint` has come. Raises `UserError` where this run can't go on from it."""
    state = training.resumed_state(config, checkpoint)
    if state is None:
        return Progress()
    del state["data"]
    return Progress(**state)


def _measure(config: ConceptsConfig) -> ConceptMeasures:
    """Write `evaluation.json`, `report.html` and the picture of the linear head."""
    transformers_logging.disable_progress_bar()  # a bar for loading a few megabytes
    split = evaluation_split(config.data)
    samples = ConceptSamples.read(config.data, split)
    model = load_concept_model(config.run / CHECKPOINTS / checkpoints.LATEST / "model")
    measures = measure(model, samples, read_predictions(config.run, samples), split)
    (config.run / MEASURES).write_text(measures.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_concept_report(config.run, measures)
    return measures


def _summary(measures: ConceptMeasures) -> str:
    """The measures that matter most, on one line."""
    parts = [f"{measures.images:,} images of the {measures.split} split"]
    for source, scores in measures.concepts.items():
        if scores.derm7pt is not None:
            parts.append(f"field accuracy {scores.derm7pt.mean_accuracy.mean:.3f} against the {source}")
        if scores.skincon is not None and scores.skincon.mean_auroc is not None:
            parts.append(f"mean AUROC {scores.skincon.mean_auroc.mean:.3f} against the {source}")
    for schema, score in measures.diagnosis.items():
        parts.append(f"diagnosis from {schema} {score.seen.mean:.3f}")
    return ", ".join(parts)


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
