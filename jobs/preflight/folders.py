"""Whether every node reads the same data and writes to the same run directory."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from jobs.preflight.finding import Finding
from jobs.preflight.nodes import NodeFacts

DATA = "data on every node"
RUN = "run directory"

_SAMPLED = 3
"""Files looked at in a folder, beside those that every such folder has."""
_KNOWN = ("manifest.json", "config.json", "config.yaml")
"""What prepared folders, model folders and run directories have."""
_WORKING_DIR = "runtime_resources/working_dir_files"
"""In the path of a folder that Ray unpacked for a submitted job and removes again."""


def samples(folder: Path) -> list[Path]:
    """A few files that stand for `folder`; the path itself where it isn't there, is a file or holds none."""
    known = [folder / name for name in _KNOWN if (folder / name).is_file()]
    images = folder / "images"
    below = (path for path in (images if images.is_dir() else folder).rglob("[!.]*") if path.is_file())
    return known + list(islice(below, _SAMPLED)) or [folder]


def check_reads(folders: Sequence[Path], facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Each folder, or file, on each node: there, and with the same files as the driver has."""
    driver, *nodes = facts
    findings = []
    for folder in folders:
        files = [path for path in driver.fingerprints if path == folder or folder in path.parents]
        if not folder.exists():
            findings.append(Finding(DATA, "fail", f"{folder} is not there", "correct the path, or prepare it first"))
            continue
        for node in nodes:
            for path in files:
                if node.fingerprints[path] == driver.fingerprints[path]:
                    continue
                missing = node.fingerprints[path] is None
                seen = f"{node.name} can't read {path}" if missing else f"{node.name} has another {path}"
                findings.append(
                    Finding(DATA, "fail", seen, f"put {folder} on a file system that all nodes share, at one path")
                )
                break
    yield from findings or [Finding(DATA, "pass", f"{len(folders)} paths read alike by {len(nodes)} nodes")]


def check_writes(folders: Sequence[Path], facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Each folder: not Ray's own copy of the working directory, writable, and the same one on every node."""
    findings = []
    for folder in folders:
        if _WORKING_DIR in str(folder):
            findings.append(
                Finding(
                    RUN,
                    "fail",
                    f"{folder} lies in the job's working directory, which Ray removes with the job",
                    "give an absolute path on a file system that all nodes share",
                )
            )
            continue
        for fact in facts:
            if folder in fact.unwritable:
                findings.append(
                    Finding(
                        RUN,
                        "fail",
                        f"{fact.name} can't write to {folder} ({fact.unwritable[folder]})",
                        "choose another folder, or mend its permissions",
                    )
                )
            elif folder in fact.strangers:
                findings.append(
                    Finding(
                        RUN,
                        "fail",
                        f"{fact.name} does not see what the driver wrote to {folder}",
                        "put it on a file system that all nodes share, at one path",
                    )
                )
    yield from findings or [Finding(RUN, "pass", f"{_listed(folders)} written by {len(facts) - 1} nodes")]


def _listed(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))
