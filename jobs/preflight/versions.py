"""Whether every node runs the same versions, and has what vLLM and torch need of the system."""

from collections.abc import Iterator, Sequence

from dermo_ray.versions import ENGINES
from jobs.preflight.finding import Finding
from jobs.preflight.nodes import DRIVER, NodeFacts

VERSIONS = "versions"
SYSTEM = "system libraries"

_SHARED_MEMORY_GIB = 1.0
"""Containers get 64 MiB unless they are told otherwise, too little for Ray's object store and NCCL."""


def check_versions(facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """The driver's versions against every node's. The build of vLLM may differ, not its version."""
    driver = next(fact for fact in facts if fact.name == DRIVER)
    different = False
    for fact in facts:
        ours, theirs = _comparable(driver), _comparable(fact)
        if odd := [name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)]:
            different = True
            said = ", ".join(f"{name} {theirs.get(name, 'missing')}, not {ours.get(name, 'missing')}" for name in odd)
            yield Finding(VERSIONS, "fail", f"{fact.name} has {said}", "install the pinned requirements on every node")
    if not different:
        shown = ("python", "ray", "torch", "vllm")
        said = ", ".join(f"{name} {version}" for name, version in _comparable(driver).items() if name in shown)
        yield Finding(VERSIONS, "pass", f"{said} on {len(facts) - 1} nodes")


def check_system(facts: Sequence[NodeFacts], engine_on_cpu: bool) -> Iterator[Finding]:
    """What is not a Python package: libnuma for vLLM's CPU build, a compiler for torch, shared memory."""
    findings = []
    for fact in facts:
        if engine_on_cpu and not fact.has_libnuma:
            findings.append(
                Finding(SYSTEM, "fail", f"{fact.name} has no libnuma", "install libnuma1 with the system's packages")
            )
        if not fact.has_compiler:
            findings.append(Finding(SYSTEM, "fail", f"{fact.name} has no C compiler", "install gcc and g++"))
        if fact.shared_memory_gib < _SHARED_MEMORY_GIB:
            findings.append(
                Finding(
                    SYSTEM,
                    "warn",
                    f"{fact.name} has {fact.shared_memory_gib:.2f} GiB at /dev/shm",
                    "give the container more, such as --shm-size=8g or an emptyDir in memory",
                )
            )
    yield from findings or [Finding(SYSTEM, "pass", "compiler and libraries are there")]


def _comparable(fact: NodeFacts) -> dict[str, str]:
    """Versions by name, both builds of vLLM under one."""
    return {"vllm" if name in ENGINES else name: version for name, version in fact.versions.items()}
