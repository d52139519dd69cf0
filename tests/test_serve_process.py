"""The service as a person starts it: `jobs.serve`, `serve run` and `serve deploy`, each a process of its own."""

import base64
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image
from ray_nodes import BIN, ROOT, RayNodes, free_port

pytestmark = pytest.mark.slow

ENGINE = {"max_model_len": 512, "max_num_seqs": 2, "cpu_kv_cache_gib": 0.1}
START = 300.0
"""Seconds within which a service must answer."""


@pytest.fixture
def settings(trained_run: Path, tmp_path: Path) -> Path:
    """A file of settings, of two requests at once."""
    file = tmp_path / "serve.yaml"
    live = {"store": str(tmp_path / "served")}
    cct = {"stop": "probable", "samples_per_view": 4}
    file.write_text(
        yaml.safe_dump(
            {
                "run": str(trained_run),
                "name": "tiny",
                "prompts": "brief",
                "engine": ENGINE,
                "live": live,
                "cct": cct,
            }
        )
    )
    return file


def picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "tan").save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def chat(url: str, **fields: Any) -> httpx.Response:
    content = [{"type": "image_url", "image_url": {"url": picture()}}, {"type": "text", "text": "Describe."}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}]} | fields
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)


def diagnose(url: str, **fields: Any) -> httpx.Response:
    body = {"image": picture(), "modality": "clinical", "max_tokens": 96, "cct": True} | fields
    return httpx.post(f"{url}/v1/diagnose", json=body, timeout=120)


def wait_until_ready(url: str, process: subprocess.Popen[Any], log: Path) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.5)


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


def test_a_service_that_is_told_to_end_finishes_what_it_has_taken_in(settings: Path, tmp_path: Path):
    port, log = free_port(), tmp_path / "log"
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.serve", settings, f"port={port}"],
        cwd=ROOT, env=environment(), stdout=log.open("wb"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_until_ready(url, process, log)
        assert chat(url, max_tokens=2).is_success
        answers: list[httpx.Response] = []
        asked: list[Callable[[], httpx.Response]] = [
            *[lambda: chat(url, max_tokens=300, ignore_eos=True)] * 6,  # two at once: the others wait
            *[lambda: chat(url, max_tokens=300, ignore_eos=True, stream=True)] * 2,
            *[lambda: diagnose(url)] * 2,
        ]
        asking = [threading.Thread(target=lambda ask=ask: answers.append(ask())) for ask in asked]
        for thread in asking:
            thread.start()
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        for thread in asking:
            thread.join()
        process.wait(90)
        said = log.read_text(errors="replace")
        assert [answer.status_code for answer in answers] == [200] * len(asked), [a.text[:200] for a in answers]
        streams = [answer.text for answer in answers if "event-stream" in answer.headers["content-type"]]
        assert [text.strip().endswith("data: [DONE]") for text in streams] == [True, True]
        assert process.returncode == 0, said
        assert "finishing the requests under way" in said
    finally:
        process.kill()
        process.wait()


def test_serve_run_takes_the_overrides_that_jobs_serve_takes(settings: Path, tmp_path: Path):
    port, log = free_port(), tmp_path / "log"
    overrides = ["engine.max_num_seqs=4", "pool.max_workers=null", "safety.allowed_hosts=[images.example.org]"]
    code = f"import ray, sys; ray.init(num_cpus=2, include_dashboard=False); from ray import serve; \
serve.start(http_options={{'host': '127.0.0.1', 'port': {port}}}); from ray.serve.scripts import cli; cli()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", "serve.app:build", f"config={settings}", *overrides],
        cwd=ROOT, env=environment(), stdout=log.open("wb"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, log)
        assert chat(f"http://127.0.0.1:{port}", max_tokens=2).json()["system_fingerprint"] == "tiny@step_000007/v7"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_serve_deploy_takes_a_file_like_the_one_that_is_shipped(settings: Path, tmp_path: Path):
    shipped = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    port = shipped["http_options"]["port"] = free_port()
    shipped["applications"][0]["args"] = {"config": str(settings), "pool": {"workers": 1}}
    file = tmp_path / "deploy.yaml"
    file.write_text(yaml.safe_dump(shipped))
    cluster = RayNodes(tmp_path)
    try:
        cluster.start_head(cpus=2)
        deployed = subprocess.run(
            [BIN / "serve", "deploy", file, "--address", f"http://127.0.0.1:{cluster.dashboard}"],
            env=cluster.environment, cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, cluster.nodes[0], tmp_path / "node-0.log")
        assert chat(url, max_tokens=2).json()["system_fingerprint"] == "tiny@step_000007/v7"
        assert "dermo_ray_requests_total" in httpx.get(f"{url}/metrics").text
    finally:
        cluster.stop()
