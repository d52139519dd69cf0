"""Settings of `jobs.merge`."""

from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.config.model import ModelSettings


class MergeConfig(Settings):
    """Settings of the job: an adapter becomes part of the model that it was trained on."""

    model: ModelSettings
    """The model that the adapter was trained on; the result has its `dtype`."""
    adapter: AbsolutePath
    """Folder of a PEFT adapter: a checkpoint's `adapter`, or a released one, `non_lora_state_dict.bin` included."""
    out: AbsolutePath
    """Folder to write, in Hugging Face format; it must not exist."""
