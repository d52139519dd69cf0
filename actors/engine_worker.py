"""What vLLM's worker processes do for an engine beyond what they can do by themselves."""

from typing import Any

from dermo_ray.models.fingerprint import fingerprint


class Fingerprinted:
    """vLLM's hook for code in its workers: the worker becomes a subclass of this."""

    model_runner: Any

    def weight_fingerprint(self) -> int:
        """The fingerprint of the weights that this worker holds."""
        return fingerprint(self.model_runner.get_model().parameters())
