"""The data card: README.md of a prepared folder, for people."""

from collections.abc import Mapping
from typing import Any, get_args

import yaml

from dermo_ray.records import Split


def data_card(manifest: Mapping[str, Any]) -> str:
    """The card as Markdown, from the manifest alone."""
    counts = manifest["counts"]
    parts = [
        _front_matter(counts),
        "# Prepared dermatology corpus",
        "For research only. This is not a medical device, and models trained on it must not be used to diagnose.\n"
        "Keep to the licence of every source below; some forbid commercial use.",
        "## Contents",
        "- `trajectories/{train,val,test}`: training conversations, Parquet\n"
        "- `rl/{train,val,test}`: prompts with their reference (`ground_truth`, JSON), Parquet\n"
        "- `samples.parquet`: one row an image, with label, morphology, annotation, skin tone and split\n"
        "- `rejects.parquet`: what was read and dropped, with the reason\n"
        "- `images/`: upright RGB without metadata, each named by the SHA-256 of its bytes\n"
        "- `manifest.json`: settings and counts",
        "Patients, lesions and near-duplicate images never stand in two splits.\n"
        "`image` columns are relative to this folder.",
        "Where `annotation` differs from `morphology`, the annotators' errors are simulated: conversations are\n"
        "written from `annotation`, references of rewards from `morphology`.",
        "## Sources",
        _table(
            ("source", "read", "kept", "dropped", "licence"),
            [
                (name, manifest["read"][name], manifest["kept"].get(name, 0), _reasons(manifest, name), licence)
                for name, licence in manifest["licences"].items()
            ],
        ),
    ]
    for title, kind in (("Images", "images"), ("Training conversations", "trajectories"), ("RL prompts", "rl")):
        parts.append(f"## {title}: {counts[kind]['total']:,}")
        parts += [
            _table((dimension.replace("_", " "), "count"), list(values.items()))
            for dimension, values in counts[kind].items()
            if dimension != "total" and (kind, dimension) != ("images", "source")  # which stand under Sources
        ]
    if manifest["examples"]:
        parts.append("## Examples")
        parts += [f"![{example['label']}]({example['image']}) {example['label']}" for example in manifest["examples"]]
    parts += _evenness(manifest)
    if "drafts" in manifest:
        parts.append("## Drafted by a concept model")
        parts.append(
            f"The morphology of {manifest['drafts']:,} images, from which conversations are written; the column\n"
            "`annotator` says by which model. No reference of a reward is machine-made."
        )
    if "teacher" in manifest:
        parts.append("## Written by a teacher")
        parts.append(
            "Machine-made texts and morphologies; the column `annotator` of samples and conversations says by which\n"
            "model, with which prompt and when. No reference of a reward is machine-made."
        )
        parts += _teacher(manifest["teacher"])
    if manifest["labels"]["unknown"]:
        unknown = manifest["labels"]["unknown"].items()
        rows = [(label, facts["count"], ", ".join(facts["nearest"])) for label, facts in unknown]
        parts.append("## Labels the taxonomy does not know")
        parts.append(_table(("label", "count", "nearest"), rows))
    return "\n\n".join(parts) + f"\n\nContent hash: `{manifest['content_hash']}`\n"


def _front_matter(counts: Mapping[str, Any]) -> str:
    """What `datasets.load_dataset(FOLDER)` reads: the tables by name, the first of them by default."""
    files = {
        kind: {
            split: f"{kind}/{split}/*.parquet" for split in get_args(Split) if split in counts[kind].get("split", {})
        }
        for kind in ("trajectories", "rl")
    } | {"samples": {"all_splits": "samples.parquet"}}
    configs: list[dict[str, Any]] = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in paths.items()]}
        for name, paths in files.items()
        if paths
    ]
    configs[0]["default"] = True
    return f"---\n{yaml.safe_dump({'configs': configs}, sort_keys=False)}---"


def _teacher(counts: Mapping[str, Any]) -> list[str]:
    """What was accepted of a teacher's answers, what a filter refused, and what was never answered."""
    refused = [(part, name, count) for part, names in counts["dropped"].items() for name, count in names.items()]
    unanswered = [
        *counts["failed"].items(),
        *([("over_budget", counts["over_budget"])] if counts["over_budget"] else []),
    ]
    return [
        _table(("part", "accepted"), list(counts["accepted"].items())),
        *([_table(("part", "dropped as", "count"), refused)] if refused else []),
        *([_table(("questions without an answer", "count"), unanswered)] if unanswered else []),
    ]


def _evenness(manifest: Mapping[str, Any]) -> list[str]:
    """How evenly the labels are spread over the splits."""
    farthest = manifest["stratification"]["largest_deviation"]
    if farthest is None:
        return []
    rows = [
        (row["label"], row["images"], *(_share(row[f"{split}_share"]) for split in get_args(Split)))
        for row in manifest["stratification"]["labels"]
    ]
    return [
        "## Labels by split",
        f"Each column holds the share of a label among the split's images. The largest difference from its share of\n"
        f"all images is {farthest['deviation']:+.1%}: {farthest['label']} in {farthest['deviation_in']}.",
        _table(("label", "images", *get_args(Split)), rows),
    ]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _reasons(manifest: Mapping[str, Any], source: str) -> str:
    reasons = manifest["dropped"].get(source, {})
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
