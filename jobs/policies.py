"""The weights behind a policy of the benchmark: a run's checkpoint, or a model folder with or without an adapter."""

import json

from actors.adapters import WEIGHTS
from dermo_ray.bench.responses import weights_hash
from dermo_ray.config.bench import PolicySettings
from dermo_ray.errors import UserError
from serve.checkpoints import Checkpoint, resolve

_ADAPTER_CONFIG = "adapter_config.json"


def checkpoint_of(policy: PolicySettings) -> Checkpoint | None:
    """The weights of a policy, None for a server. Raises `UserError` where they are missing or damaged."""
    if policy.run is not None:
        return resolve(policy.run, policy.checkpoint)
    if policy.model is None:
        return None
    if not (policy.model.path / "config.json").is_file():
        raise UserError(f"policy {policy.name}: {policy.model.path} holds no model: config.json is missing")
    if policy.adapter is None:
        return Checkpoint(policy.model.path.name, 0, policy.model, None, None)
    for name in (_ADAPTER_CONFIG, WEIGHTS):
        if not (policy.adapter / name).is_file():
            raise UserError(f"policy {policy.name}: {policy.adapter} is no adapter that peft wrote: {name} is missing")
    rank = json.loads((policy.adapter / _ADAPTER_CONFIG).read_text(encoding="utf-8"))["r"]
    return Checkpoint(policy.adapter.name, 0, policy.model, policy.adapter, rank)


def fingerprint(policy: PolicySettings, checkpoint: Checkpoint | None) -> str:
    """What answers are kept under: the content of the weights; of a server its address and its model's name."""
    if checkpoint is None:
        assert policy.endpoint is not None
        endpoint = policy.endpoint
        return f"{endpoint.base_url} {endpoint.model} {json.dumps(endpoint.extra_body, sort_keys=True)}"
    folders = [checkpoint.model.path, *([checkpoint.adapter] if checkpoint.adapter else [])]
    return weights_hash(folders, {"dtype": checkpoint.model.dtype})


def where(policy: PolicySettings, checkpoint: Checkpoint | None) -> str:
    """The policy's place in words."""
    if checkpoint is None:
        assert policy.endpoint is not None
        return f"{policy.endpoint.model} at {policy.endpoint.base_url}"
    place = str(checkpoint.model.path)
    if policy.run is not None:
        return f"{policy.run}, {checkpoint.label}"
    return place if checkpoint.adapter is None else f"{place} with {checkpoint.adapter}"
