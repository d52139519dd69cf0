"""What becomes of requests when a replica, or the manager, is killed."""

import base64
import io
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import ray
from PIL import Image
from ray.util import list_named_actors
from ray_nodes import free_port

from dermo_ray.config.base import load
from dermo_ray.config.serve import ServeConfig
from jobs.serve import serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(trained_run: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[str]:
    """A service of one replica."""
    run = tmp_path_factory.mktemp("faults") / "run"
    shutil.copytree(trained_run, run, symlinks=True)
    settings = {"run": run, "name": "tiny", "port": free_port(), "engine": "{max_model_len: 512, max_num_seqs: 8}"}
    with serving(load(ServeConfig, None, [f"{key}={value}" for key, value in settings.items()])) as url:
        yield url


def kill(deployment: str) -> None:
    names = [actor["name"] for actor in list_named_actors(all_namespaces=True)]
    (replica,) = (name for name in names if f"SERVE_REPLICA::dermo-ray#{deployment}#" in name)
    ray.kill(ray.get_actor(replica, namespace="serve"))


def ask(url: str, **fields: object) -> httpx.Response:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "tan").save(file, "PNG")
    image = {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}
    content = [{"type": "image_url", "image_url": image}, {"type": "text", "text": "Describe."}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 8} | fields
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)


def test_requests_of_a_killed_replica_are_answered_by_the_next_one(service: str):
    answers: list[httpx.Response] = []
    asking = [threading.Thread(target=lambda: answers.append(ask(service, max_tokens=300))) for _ in range(4)]
    for thread in asking:
        thread.start()
    time.sleep(0.5)
    kill("policy")
    for thread in asking:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert {answer.json()["system_fingerprint"] for answer in answers} == {"tiny@step_000007/v7"}


def test_a_replica_ends_with_its_engine_and_only_what_the_engine_was_answering_is_affected(service: str):
    (engine,) = (
        process
        for process in psutil.Process().children(recursive=True)
        if "EngineCore" in " ".join([process.name(), *process.cmdline()])
    )
    replica = engine.parent()
    assert replica is not None
    under_way: list[httpx.Response] = []
    asking = [threading.Thread(target=lambda: under_way.append(ask(service, max_tokens=300))) for _ in range(4)]
    for thread in asking:
        thread.start()
    time.sleep(0.5)
    engine.kill()
    for thread in asking:
        thread.join()  # with which vLLM knows; the replica ends a moment later
    later = ask(service)
    psutil.wait_procs([replica], timeout=20)
    assert not replica.is_running() or replica.status() == psutil.STATUS_ZOMBIE
    assert later.status_code == 200
    assert {answer.status_code for answer in under_way} <= {200, 503}
    assert all("Retry-After" in answer.headers for answer in under_way if answer.status_code == 503)


def test_a_killed_manager_comes_back_with_its_catalogue_and_nobody_waits_for_it(service: str):
    before = httpx.post(f"{service}/admin/pin", json={"checkpoint": "step_000007"}).json()
    kill("manager")
    assert ask(service).status_code == 200
    deadline = time.monotonic() + 60
    while True:
        after = httpx.post(f"{service}/admin/pin", json={"checkpoint": "step_000007"}, timeout=60)
        if after.is_success:
            break
        assert time.monotonic() < deadline, after.text
        time.sleep(0.5)
    assert after.json()["promoted"] == before["promoted"]
    assert after.json()["revision"] == before["revision"] + 1


def test_a_killed_ingress_is_replaced_by_one_that_listens_on_the_same_port(service: str):
    with httpx.Client() as client:  # a connection that is open when the ingress dies
        client.get(f"{service}/healthz")
        (ingress,) = (
            process
            for process in psutil.Process().children(recursive=True)
            if "ServeReplica:dermo-ray:ingress" in " ".join(process.cmdline())
        )
        kill("ingress")
        psutil.wait_procs([ingress], timeout=20)
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = ask(service)
            except httpx.TransportError:  # nobody listens
                assert time.monotonic() < deadline
                time.sleep(0.2)
            else:
                break
    assert answer.json()["system_fingerprint"] == "tiny@step_000007/v7"
