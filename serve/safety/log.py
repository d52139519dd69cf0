"""One line in the log for each request.

Invariant: it holds no text and no image of the request unless `log_content` is on, and an image never but by its hash.
"""

import hashlib
import json
import logging
from typing import Any

from dermo_ray.config.safety import SafetySettings

LOGGER = logging.getLogger("ray.serve")
"""Ray Serve writes what comes here to the logs of its replicas."""


def log_request(settings: SafetySettings, caller: str, route: str, body: Any) -> None:
    """Note that `caller` asked `route`, and, if that is switched on, what for."""
    content = f" {json.dumps(_legible(body))}" if settings.log_content else ""
    LOGGER.info("%s asks %s%s", caller, route, content)


def _legible(value: Any) -> Any:
    """The JSON `value` with every data URI as a hash."""
    if isinstance(value, dict):
        return {key: _legible(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_legible(item) for item in value]
    if isinstance(value, str) and value[:5].lower() == "data:":
        return f"image sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    return value
