"""A run's metrics in a service for experiment tracking, beside the run directory.

Invariants: a service that is slow or away neither holds up a run nor ends it; a run that goes on is the same run there;
no package of a service is imported unless it was asked for.
"""

import importlib
import importlib.util
import json
import math
import sys
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from dermo_ray.config.tracking import TrackingSettings
from dermo_ray.errors import UserError
from dermo_ray.staging import staged_file

IDENTITY = "tracking.json"
"""In the run directory: what the run goes by in each service."""


class Service(Protocol):
    """One run in a service."""

    identity: str
    """What the run goes by there."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values`, all finite, after update `step`."""

    def close(self) -> None:
        """Say that the run has ended."""


class WandbRun:
    """A run of Weights & Biases (docs.wandb.ai/ref/python)."""

    def __init__(self, project: str, name: str, identity: str | None, settings: Mapping[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        self.identity = identity or uuid.uuid4().hex
        self._run = wandb.init(project=project, name=name, id=self.identity, resume="allow", config=dict(settings))
        # its own step only ever grows, but a run that goes on from a checkpoint makes some updates again
        self._run.define_metric("*", step_metric="update")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` after update `step`."""
        self._run.log({"update": step, **values})

    def close(self) -> None:
        """End it."""
        self._run.finish()


class MlflowRun:
    """A run of MLflow (mlflow.org/docs/latest/api_reference/python_api/mlflow.html)."""

    def __init__(self, project: str, name: str, identity: str | None, settings: Mapping[str, Any]) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._mlflow.set_experiment(project)
        run = self._mlflow.start_run(run_id=identity, run_name=None if identity else name)
        self.identity: str = run.info.run_id
        if identity is None:  # a parameter can be given only once
            self._mlflow.log_params(dict(_flat(settings)))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` after update `step`."""
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """End it."""
        self._mlflow.end_run()


SERVICES: Mapping[str, Callable[[str, str, str | None, Mapping[str, Any]], Service]] = MappingProxyType(
    {"wandb": WandbRun, "mlflow": MlflowRun}
)
"""Each takes project, name of the run, what the run went by before (None for a new one), and the run's settings."""


def check_tracking(settings: TrackingSettings) -> None:
    """Raise `UserError` where the package of the service is not installed."""
    if settings.to is not None and importlib.util.find_spec(settings.to) is None:
        raise UserError(
            f"tracking.to={settings.to} needs the package {settings.to}, which is not installed: "
            f"install it with `pip install {settings.to}`, or set tracking.to=null"
        )


class Tracker:
    """Sends the metrics of the run directory `run`, whose settings are `config`, in a thread of its own."""

    def __init__(self, settings: TrackingSettings, run: Path, config: Mapping[str, Any]) -> None:
        check_tracking(settings)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracking")
        self._service: Service | None = None
        if settings.to is not None:
            path = run / IDENTITY
            known = json.loads(path.read_text()) if path.is_file() else {}
            service = SERVICES[settings.to](settings.project, run.name, known.get(settings.to), config)
            with staged_file(path) as aside:
                aside.write_text(json.dumps(known | {settings.to: service.identity}))
            self._service = service

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the finite ones of `values`, some time; what fails is told on stderr and left out."""
        if self._service is not None:
            finite = {name: value for name, value in values.items() if math.isfinite(value)}
            self._thread.submit(self._try, self._service.log, step, finite)

    def close(self) -> None:
        """Send what is left and end the run there."""
        if self._service is not None:
            self._thread.submit(self._try, self._service.close)
        self._thread.shutdown()

    @staticmethod
    def _try(send: Callable[..., None], *arguments: Any) -> None:
        try:
            send(*arguments)
        except Exception as error:  # whatever a service raises, the run directory has the metrics
            print(f"tracking: {' '.join(str(error).split())[:200]}", file=sys.stderr, flush=True)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Settings by their dotted names."""
    return [
        pair
        for name, value in settings.items()
        for pair in (_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)])
    ]
