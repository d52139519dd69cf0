"""Peak memory of log-probabilities with and without chunks: `python -m benchmarks.logprobs`.

Scores sequences of growing length over Qwen3-VL's vocabulary of 151,936 tokens, forward and backward, once with all
logits at once and once as `PolicyScorer` does it, each in a process of its own, and notes what the process's resident
memory grew by at most, and how long it took. The head is a random one of width 1,024 in float32 that is not trained, as
beside an adapter. Writes `benchmarks/results/logprobs.json`.
"""

import argparse
import json
import multiprocessing
import resource
import time
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.demo import RESULTS
from benchmarks.machine import describe
from dermo_ray.models import policy
from dermo_ray.models.policy import PolicyScorer

_VOCABULARY = 151_936
_WIDTH = 1_024
_POSITIONS = (512, 1_024, 2_048)


class _Head(nn.Module):
    """All of a policy that scoring needs beyond its hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_head = nn.Linear(_WIDTH, _VOCABULARY, bias=False).requires_grad_(False)


class _Scorer(PolicyScorer):
    """Scores given hidden states."""

    def predicting(self, batch: Any) -> Tensor:
        return batch.hidden


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for positions in _POSITIONS:
            for chunked in (False, True):
                rows.append(pool.apply(_measure, (positions, chunked)))
                print(rows[-1], flush=True)
    result = {
        "command": "python -m benchmarks.logprobs",
        "machine": describe(),
        "vocabulary": _VOCABULARY,
        "logits_at_once": policy._LOGITS_AT_ONCE,
        "measured": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "logprobs.json").write_text(json.dumps(result, indent=2) + "\n")


def _measure(positions: int, chunked: bool) -> dict[str, Any]:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    if not chunked:
        policy._LOGITS_AT_ONCE = positions * _VOCABULARY
    scorer = _Scorer(_Head(), banned=[0])
    hidden = torch.randn(positions, _WIDTH, requires_grad=True)
    ids = torch.randint(1, _VOCABULARY, (1, positions))
    batch: Any = SimpleNamespace(hidden=hidden, input_ids=ids, trained=torch.ones_like(ids, dtype=torch.bool))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    scores = scorer(batch)
    scores.sum().backward()
    seconds = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "positions": positions,
        "chunked": chunked,
        "logits_gib": round(positions * _VOCABULARY * 4 / 2**30, 2),
        "peak_gib": round(grown / 2**20, 2),
        "seconds": round(seconds, 2),
        "sum": round(float(scores.detach().double().sum()), 2),
        "gradient_norm": round(float(hidden.grad.norm()), 4) if hidden.grad is not None else None,
    }


if __name__ == "__main__":
    main()
