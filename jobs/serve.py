"""Serves the checkpoints of a training run over HTTP, as OpenAI's clients expect it: `run=runs/demo/mavic`.

Prints the address once the service answers, and runs until it is interrupted or told to end; requests under way are
then finished first. Images go in as data URIs. Every answer says in `system_fingerprint` which policy version wrote it.
A newer checkpoint takes over while the service runs; `jobs.release` promotes, rolls back and pins by hand.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import ProxyLocation
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, LoggingConfig

from dermo_ray.config.serve import ServeConfig
from dermo_ray.errors import UserError
from jobs import preflight
from jobs.cluster import ray_session
from jobs.command import main
from jobs.ports import check_port
from serve.app import application
from serve.checkpoints import resolve

CONFIG = ServeConfig

_LOGGING = LoggingConfig(log_level="WARNING")
_REQUESTS_LOGGED = LoggingConfig(log_level="INFO", enable_access_log=False)
"""Of the replicas: the line that the service itself writes for each request is at this level."""
_APPLICATION = "dermo-ray"
_QUIET_CLUSTER = {
    "RAY_worker_niceness": "0",  # at Ray's 15, its own processes interrupt the engine at every token
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # by default ten times a second
    "RAY_SERVE_LOG_TO_STDERR": "0",  # each line goes to Ray Serve's log already, and from stderr through Ray to nobody
}
"""What is read by the processes of a cluster that starts here, so that they leave few cores to the engine."""
_FAREWELL = 30.0
"""Seconds for the replicas' processes to end after their last request."""


def run(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM, then drain."""
    with serving(config) as url:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # after Ray, which sets a handler of its own
        print(f"serving {config.name} at {url}/v1", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
        print("finishing the requests under way", flush=True)


@contextmanager
def serving(config: ServeConfig) -> Iterator[str]:
    """A service for the body of a `with`: gives its base URL once it answers, drains and removes it afterwards.

    Raises `UserError` for a checkpoint or model that can't be served, a port in use, or a cluster that is too small or
    already serves something; `RuntimeError` where the service does not answer within `engine.start_timeout`.
    """
    checkpoint = resolve(config.run, config.checkpoint)
    check_port(config.host, config.port)
    for name, value in _QUIET_CLUSTER.items():
        os.environ.setdefault(name, value)
    with ray_session():
        preflight.ensure("serve", config, checkpoint.model)
        app = application(config, checkpoint, listens=True)
        there = serve.status()
        if there.proxies or there.applications:
            raise UserError("this Ray cluster already runs Ray Serve: stop it with `serve shutdown`, or use another")
        serve.start(ProxyLocation.Disabled, logging_config=_LOGGING)
        try:
            target = serve.RunTarget(app, _APPLICATION, logging_config=_REQUESTS_LOGGED)
            serve.run_many([target], wait_for_applications_running=False)
            url = f"http://{config.host}:{config.port}"
            _wait_until_ready(url, config.engine.start_timeout)
            yield url
        finally:
            _drain(config.drain_timeout)


def _wait_until_ready(url: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        deployed = serve.status().applications[_APPLICATION]
        if deployed.status == ApplicationStatus.DEPLOY_FAILED:
            raise RuntimeError(f"the replicas failed to start: {deployed.message}")
        if deployed.status == ApplicationStatus.RUNNING:
            with suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz", timeout=5).is_success:
                    return
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"the service was not ready within {timeout:g} s (engine.start_timeout): {deployed.message}"
            )
        time.sleep(0.2)


def _drain(timeout: float) -> None:
    """Stop Ray Serve once no request is under way; after `timeout` seconds Ray Serve ends the replicas in any case."""
    deadline = time.monotonic() + timeout + _FAREWELL
    # first at the ingress: Ray Serve ends all deployments at once, and a request that waits for a replica with them
    with suppress(TimeoutError, RayError, RayServeException):  # it did not start, or takes too long
        serve.get_app_handle(_APPLICATION).broadcast("drain").results(timeout_s=timeout)
    serve.delete(_APPLICATION, _blocking=False)  # the blocking kind gives up after a minute
    while _APPLICATION in serve.status().applications and time.monotonic() < deadline:
        time.sleep(0.2)
    serve.shutdown()


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
