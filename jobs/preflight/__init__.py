"""Checks, before anything starts, whether a job can run as it is set: `python -m jobs.preflight CONFIG.yaml`.

CONFIG is the settings file of prepare, sft, concepts, mavic, evaluate or serve, with the same overrides; `job=sft`
says which where it can't be told. Looked at are: the cluster's resources, versions and system libraries on every node,
the model folder, GPU memory by pool, data and run directory from every node, disk space, the reward, the teacher's
server, the port. A table says what was found and what to do about it. Every job runs the same checks first.

Invariant: nothing is changed. Files that nodes leave to find out whether they share a folder are removed again.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import rich

from dermo_ray.config.base import Settings
from dermo_ray.config.evaluate import EvaluateConfig
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.preflight import JobName, PreflightConfig
from dermo_ray.config.serve import ServeConfig
from dermo_ray.config.sft import SftConfig
from dermo_ray.errors import UserError
from jobs.cluster import ray_session
from jobs.preflight import checkpoint, disk, folders, host_memory, model, ports, resources, reward, teacher, versions
from jobs.preflight.connected import connected_cluster
from jobs.preflight.finding import Finding, table
from jobs.preflight.nodes import ask_nodes
from jobs.preflight.plan import Plan

CONFIG = PreflightConfig


def run(config: PreflightConfig) -> list[Finding]:
    """Check and print the table. Raises `UserError` where a check fails, naming how many did and the first."""
    job, settings = config.checked()
    plan = Plan(job, settings)
    with ray_session():
        findings = list(check(plan, connected_cluster()))
    rich.print(table(findings, f"jobs.{job}"))
    failed = [finding for finding in findings if finding.status == "fail"]
    if failed:
        raise UserError(f"{len(failed)} of {len(findings)} checks failed, the first: {failed[0].line}")
    return findings


def ensure(job: JobName, config: Settings, verified: ModelSettings | None = None) -> None:
    """Check as a job does that is about to start on the connected cluster; warnings go to stderr.

    `verified` is the model of the checkpoint that the job has found whole, which is not hashed again then.

    Raises `UserError` for the first check that fails.
    """
    # how much is free just now says little: the stage before this one may still be handing back what it had
    cluster = replace(connected_cluster(), available=None)
    for finding in check(Plan(job, config), cluster, verified):
        if finding.status == "fail":
            raise UserError(finding.line)
        if finding.status == "warn":
            print(f"warning: {finding.check}: {finding.line}", file=sys.stderr, flush=True)


def check(plan: Plan, cluster: resources.Cluster, verified: ModelSettings | None = None) -> Iterator[Finding]:
    """What every check finds on the connected cluster, those that take no time first; `verified` as for `ensure`."""
    yield from resources.check_resources(plan.pools, cluster)
    if plan.address is not None:
        yield from ports.check_address(*plan.address)
    base = verified or plan.model
    if verified is None and isinstance(plan.config, EvaluateConfig | ServeConfig) and plan.config.run is not None:
        finding, base = checkpoint.find_checkpoint(plan.config.run, plan.config.checkpoint)
        yield finding
    if base is not None:
        yield from model.check_model(base.path, plan.engines)
    if plan.teacher is not None:
        yield teacher.check_teacher(plan.teacher)
    yield from _of_nodes(plan, base.path if base is not None else None)
    if plan.reward is not None:
        yield from reward.check_scoring(plan.reward, plan.reward_deadline)
    on_gpu = any(pool.on_gpu for pool in plan.pools.values())
    if on_gpu and isinstance(plan.config, MavicConfig | SftConfig):
        from jobs.preflight import gpu_memory  # the estimate builds the model's layers, which takes a second or two

        for gpu in gpu_memory.gpus_of(plan.pools, cluster):
            yield from gpu_memory.check_gpu_memory(plan.config, gpu)


def _of_nodes(plan: Plan, weights: Path | None) -> Iterator[Finding]:
    """The checks for which every node was asked."""
    files = [path for folder in plan.reads for path in folders.samples(folder)]
    facts = ask_nodes(files, plan.writes)
    engine_on_cpu = any(not pool.on_gpu for pool in plan.pools.values()) and bool(plan.engines)
    yield from versions.check_versions(facts)
    yield from versions.check_system(facts, engine_on_cpu)
    yield from folders.check_reads(plan.reads, facts)
    if plan.writes:
        yield from folders.check_writes(plan.writes, facts)
        yield from disk.check_disk(plan.writes, facts[0], disk.needed_gib(plan))
    nodes_gib = [fact.memory_gib for fact in facts[1:]]
    yield from host_memory.check_host_memory(plan.pools, plan.engines, weights, nodes_gib)
