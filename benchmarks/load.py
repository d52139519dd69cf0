"""A tiny run to serve, servers to ask, and a load to put on them: what the benchmarks of serving share.

The policy is the tests' tiny Qwen3-VL with random weights; a checkpoint holds a random adapter of rank 8. Answers are
of a fixed length (`ignore_eos`), so that every server has the same to do.
"""

import asyncio
import base64
import io
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from dermo_ray import checkpoints
from dermo_ray.config.model import LoraSettings, ModelSettings
from dermo_ray.models.policy import load_policy
from dermo_ray.phantom.render import draw
from dermo_ray.phantom.settings import PhantomSettings
from dermo_ray.phantom.tiny_model import TinyModelSettings, save_tiny_model
from jobs.memory import memory_gib

NAME = "tiny"
RANK = 8
MAX_MODEL_LEN = 512
MAX_NUM_SEQS = 64
_START_TIMEOUT = 300.0
_STOP_TIMEOUT = 60.0


def make_run(folder: Path, steps: Sequence[int] = (1,)) -> Path:
    """A run directory in `folder` whose checkpoints hold adapters that answer unlike each other."""
    model, adapter, run = folder / "model", folder / "adapter", folder / "run"
    save_tiny_model(model, TinyModelSettings(patch_size=16), seed=0)
    policy = load_policy(ModelSettings(path=model), LoraSettings(rank=RANK, alpha=RANK))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=generator)
    policy.save_pretrained(adapter)
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"path": str(model)}, "lora": {"rank": RANK}}))
    for step in steps:
        add_checkpoint(run, adapter, step)
    return run


def add_checkpoint(run: Path, adapter: Path, step: int) -> Path:
    """Commit a checkpoint whose adapter is a random change of `adapter`, another for every step."""
    partial = checkpoints.begin(run / "checkpoints", step)
    (partial / "adapter").mkdir()
    for file in adapter.iterdir():
        (partial / "adapter" / file.name).write_bytes(file.read_bytes())
    generator = torch.Generator().manual_seed(step)
    weights = load_file(adapter / "adapter_model.safetensors")
    changed = {
        name: torch.randn(weight.shape, generator=generator) * 0.1 if "lora_B" in name else weight
        for name, weight in weights.items()
    }
    save_file(changed, partial / "adapter" / "adapter_model.safetensors")
    return checkpoints.commit(partial, {"step": step, "version": step})


@dataclass
class Server:
    """A server process and where it answers."""

    url: str
    model: str
    process: subprocess.Popen[bytes]

    def memory_mib(self) -> float:
        """Proportional set size of the process and all its descendants."""
        return 1024 * memory_gib(self.process.pid)


@contextmanager
def dermo_ray_server(run: Path, log: Path, overrides: Sequence[str] = ()) -> Iterator[Server]:
    """`jobs.serve` on `run`, for the body of a `with`."""
    port = free_port()
    command = [
        sys.executable, "-m", "jobs.serve", f"run={run}", f"name={NAME}", f"port={port}",
        f"engine.max_model_len={MAX_MODEL_LEN}", f"engine.max_num_seqs={MAX_NUM_SEQS}", "engine.cpu_kv_cache_gib=0.25",
        "prompts=brief", *overrides,
    ]  # fmt: skip
    with _running(command, f"http://127.0.0.1:{port}", "readyz", NAME, log, {}) as server:
        yield server


@contextmanager
def vllm_server(run: Path, log: Path) -> Iterator[Server]:
    """What `vllm serve` starts, with the same engine: adapter, limits, environment and code for adapters on a CPU.

    By its module, since the command looks for a package of another name than that of vLLM's CPU build.
    """
    port = free_port()
    model, adapter = run.parent / "model", run / "checkpoints/latest/adapter"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--host", "127.0.0.1", "--port", str(port),
        "--enable-lora", "--max-lora-rank", str(RANK), "--max-loras", "4", "--lora-modules", f"{NAME}={adapter}",
        "--dtype", "float32", "--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", str(MAX_NUM_SEQS),
        "--max-num-batched-tokens", "8192", "--no-enable-chunked-prefill", "--generation-config", "vllm",
        "--logprobs-mode", "processed_logprobs", "--kv-cache-memory-bytes", str(2**28),
        "--limit-mm-per-prompt", '{"video": 0}', "--distributed-executor-backend", "uni",
        "--worker-extension-cls", "actors.cpu_lora.DenseLora",
    ]  # fmt: skip
    environment = {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    with _running(command, f"http://127.0.0.1:{port}", "health", NAME, log, environment) as server:
        yield server


@contextmanager
def _running(
    command: list[str], url: str, health: str, model: str, log: Path, environment: Mapping[str, str]
) -> Iterator[Server]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait(process, f"{url}/{health}", log)
            yield Server(url, model, process)
        finally:
            descendants = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
            for left in psutil.wait_procs(descendants, timeout=10)[1]:
                left.kill()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            if httpx.get(url, timeout=5).is_success:
                return
        except httpx.TransportError:
            pass  # not up yet
        time.sleep(0.5)
    raise RuntimeError(f"the server did not answer {url} within {_START_TIMEOUT:g} s:\n{log.read_text()[-2000:]}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def requests(count: int, tokens: int, *, seed: int = 0, images: int | None = None) -> list[dict[str, Any]]:
    """`count` chat requests of `tokens` tokens, each about an image of its own, or about `images` that recur."""
    pictures = [_data_uri(seed + number) for number in range(min(count, images or count))]
    return [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": pictures[number % len(pictures)]}},
                        {"type": "text", "text": "What does the skin show?"},
                    ],
                }
            ],
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        for number in range(count)
    ]


def _data_uri(seed: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(draw(seed, PhantomSettings(size=96)).image).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass
class Outcome:
    """What came of a load."""

    seconds: float
    """From the first request to the last answer."""
    latencies: list[float] = field(default_factory=list)
    began: list[float] = field(default_factory=list)
    """When each request was sent (`time.monotonic`), in the order of the answers."""
    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """Number of the request, and the answer."""
    failures: list[tuple[int, int, str]] = field(default_factory=list)
    """Number of the request, status (0: no answer) and what was said."""
    retried: int = 0
    """Requests that were sent again after a 503, where that is allowed."""

    def add(self, later: "Outcome") -> None:
        """Count in what came of another load, put on after this one."""
        self.seconds += later.seconds
        self.latencies += later.latencies
        self.began += later.began
        self.answers += later.answers
        self.failures += later.failures
        self.retried += later.retried

    def figures(self, tokens: int) -> dict[str, float]:
        """Throughput in answered requests and generated tokens a second, and quantiles of the latency in ms."""
        answered = len(self.latencies)
        return {
            "requests": answered,
            "failed": len(self.failures),
            "requests_per_second": round(answered / self.seconds, 2),
            "tokens_per_second": round(answered * tokens / self.seconds, 1),
            **{f"p{q}_ms": round(1e3 * float(np.percentile(self.latencies, q)), 1) for q in (50, 95, 99)},
        }


async def put_on(
    server: Server,
    bodies: Sequence[dict[str, Any]],
    concurrency: int,
    *,
    rate: float = math.inf,
    retries: int = 0,
    keep: bool = False,
) -> Outcome:
    """Send `bodies`, `concurrency` at a time and no more than `rate` a second."""
    outcome = Outcome(0.0)
    queue = iter(enumerate(bodies))
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:

        async def work() -> None:
            for number, body in queue:
                await asyncio.sleep(max(0.0, first + number / rate - time.monotonic()))
                began = time.monotonic()
                for attempt in range(retries + 1):
                    status, text, answer = await _post(client, body | {"model": body.get("model", server.model)})
                    if status not in (0, 503) or attempt == retries:
                        break
                    outcome.retried += 1
                    await asyncio.sleep(0.5)
                if status == 200:
                    outcome.began.append(began)
                    outcome.latencies.append(time.monotonic() - began)
                    if keep:
                        outcome.answers.append((number, answer))
                else:
                    outcome.failures.append((number, status, text[:200]))

        first = time.monotonic()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        outcome.seconds = time.monotonic() - first
    return outcome


async def _post(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, str, dict[str, Any]]:
    try:
        answer = await client.post("/v1/chat/completions", json=body)
    except httpx.TransportError as error:
        return 0, type(error).__name__, {}
    return answer.status_code, answer.text, answer.json() if answer.is_success else {}
