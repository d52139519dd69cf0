"""A prompt's images on their way to the pools: the bytes of its files, in the object store once for all who look.

Invariant: files travel as they were prepared, a tenth of their pixels, and only a reference travels with a group,
however many completions it has; each pool decodes what it needs. The driver owns what it stores, so a worker that dies
takes no image with it.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from PIL import Image

from dermo_ray.records import RLPrompt

if TYPE_CHECKING:
    from actors.messages import Prompt


def store_images(data: Path, record: RLPrompt) -> "ray.ObjectRef[list[bytes]]":
    """Put the files of `record`, relative to the prepared folder `data`, into the object store."""
    return ray.put([(data / name).read_bytes() for name in record.images])


def read_images(prompt: "Prompt", data: Path) -> list[Image.Image]:
    """The decoded images of `prompt`, RGB: from the object store, or from the prepared folder if they aren't there."""
    if prompt.stored is not None:
        files = ray.get(prompt.stored)
    else:
        files = [(data / name).read_bytes() for name in prompt.record.images]
    images = []
    for file in files:
        with Image.open(io.BytesIO(file)) as image:
            images.append(image.convert("RGB"))
    return images
