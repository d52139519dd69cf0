"""The symmetries by which training images are turned."""

import numpy as np
from PIL import Image

from dermo_ray.models.symmetries import SYMMETRIES, batch_symmetries, turned


def test_turns_and_flips_are_the_eight_symmetries_of_a_square() -> None:
    image = Image.fromarray(np.arange(27, dtype=np.uint8).reshape(3, 3, 3))
    seen = {np.asarray(turned(image, symmetry)).tobytes() for symmetry in range(SYMMETRIES)}
    assert len(seen) == SYMMETRIES
    assert turned(image, 0) is image


def test_every_update_draws_its_symmetries_anew_and_a_resumed_run_draws_the_same() -> None:
    first, second = batch_symmetries(64, seed=3, step=0), batch_symmetries(64, seed=3, step=1)
    assert set(first) == set(second) == set(range(SYMMETRIES))
    assert first != second
    assert batch_symmetries(64, seed=3, step=1) == second
    assert batch_symmetries(64, seed=4, step=1) != second
