"""The symmetries of a square, by which training images are turned: none of them changes a morphology."""

import numpy as np
from PIL import Image

SYMMETRIES = 8
"""Four turns, each flipped or not."""


def turned(image: Image.Image, symmetry: int) -> Image.Image:
    """The image under one of the `SYMMETRIES`: `symmetry // 2` quarter turns, then a flip where it is odd."""
    turns, flip = divmod(symmetry, 2)
    if turns:
        quarter = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
        image = image.transpose(quarter[turns - 1])
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image


def batch_symmetries(size: int, seed: int, step: int) -> list[int]:
    """A symmetry for each of the `size` samples of update `step`: a function of its arguments alone."""
    drawn: list[int] = np.random.default_rng((seed, step)).integers(SYMMETRIES, size=size).tolist()
    return drawn
