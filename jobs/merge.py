"""Folds an adapter into the model that it was trained on: `model.path=BASE adapter=ADAPTER out=DIR`.

The result is a model folder like any other: jobs.mavic can start from it, vLLM and transformers load it. The adapter is
a checkpoint's `adapter`, or a published one. Needs no Ray.
"""

import torch
from transformers import AutoModelForImageTextToText

from dermo_ray.config.merge import MergeConfig
from dermo_ray.errors import UserError
from dermo_ray.models.chat import load_processor
from dermo_ray.models.merging import merged
from dermo_ray.staging import staged
from jobs.command import main

CONFIG = MergeConfig


def run(config: MergeConfig) -> None:
    """Write the merged model. Raises `UserError` where base and adapter are not there or don't fit each other."""
    if config.out.exists() and any(config.out.iterdir()):
        raise UserError(f"{config.out} is not empty: choose another out")
    processor = load_processor(config.model.path)
    model = AutoModelForImageTextToText.from_pretrained(
        config.model.path, dtype=getattr(torch, config.model.dtype), local_files_only=True
    )
    whole = merged(model, config.adapter)
    with staged(config.out) as folder:
        whole.save_pretrained(folder)  # type: ignore[operator]  # merging gives back the transformers model
        processor.save_pretrained(folder)
    print(f"{config.out}: {config.model.path} with {config.adapter}")


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
