"""The data card: README.md of a prepared folder, for people."""

from collections.abc import Mapping
from typing import Any


def data_card(manifest: Mapping[str, Any]) -> str:
    """The card as Markdown, from the manifest alone."""
    counts = manifest["counts"]
    parts = [
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
        "Lesions (or patients) never stand in two splits. `image` columns are relative to this folder.",
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
            if dimension not in ("total", "source")
        ]
    if manifest["labels"]["unknown"]:
        parts.append("## Labels the taxonomy does not know")
        parts.append(_table(("label", "count"), list(manifest["labels"]["unknown"].items())))
    return "\n\n".join(parts) + f"\n\nContent hash: `{manifest['content_hash']}`\n"


def _reasons(manifest: Mapping[str, Any], source: str) -> str:
    reasons = manifest["dropped"].get(source, {})
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)
