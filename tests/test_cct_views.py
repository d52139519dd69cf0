"""Views show the same skin: what they keep, what they change, and in which order they are planned."""

from typing import get_args

import numpy as np
import pytest
from PIL import Image

from dermo_ray.cct import VIEWS, plan
from dermo_ray.cct.views import colour_constancy, even_light
from dermo_ray.config import load
from dermo_ray.config.cct import CCTConfig, ViewName
from dermo_ray.errors import UserError
from dermo_ray.morphology import Modality

QUARTER_TURNS = {"quarter_turn_left", "quarter_turn_right"}
TURNS_AND_FLIPS = {*QUARTER_TURNS, "half_turn", "flip_horizontal", "flip_vertical"}
EVENED = {"even_light_flip_horizontal", "even_light_quarter_turn_left", "even_light_half_turn"}


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """Noise, so that no two views of it are alike."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_every_name_in_the_settings_is_a_view() -> None:
    assert list(VIEWS) == list(get_args(ViewName))


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_keeps_mode_and_size_and_leaves_its_argument_alone(name: ViewName) -> None:
    image = picture()
    before = image.tobytes()
    seen = VIEWS[name](image)
    assert seen.mode == "RGB"
    assert seen.size == ((30, 40) if "quarter_turn" in name else (40, 30))
    assert image.tobytes() == before
    assert VIEWS[name](image).tobytes() == seen.tobytes()


def test_identity_is_the_very_image() -> None:
    image = picture()
    assert VIEWS["identity"](image) is image


def test_no_two_views_are_alike() -> None:
    image = picture(32, 32)
    assert len({view(image).tobytes() for view in VIEWS.values()}) == len(VIEWS)


@pytest.mark.parametrize("name", sorted(TURNS_AND_FLIPS))
def test_turns_and_flips_lose_nothing(name: ViewName) -> None:
    image = picture()
    seen = VIEWS[name](image)
    for _ in range(3 if name in QUARTER_TURNS else 1):
        seen = VIEWS[name](seen)
    assert seen.tobytes() == image.tobytes()


def test_crops_show_the_middle() -> None:
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[10:90, 10:90] = 200  # a frame of a tenth: a light crop cuts half of it off, a large one all
    light, large = (np.asarray(VIEWS[name](Image.fromarray(pixels))) for name in ("light_crop", "large_crop"))
    assert light[50, :].min() < 20
    assert (light[50, :, 0] > 100).mean() == pytest.approx(80 / 90, abs=0.02)
    assert large.min() == 200


def test_colour_constancy_makes_a_tinted_grey_picture_grey() -> None:
    grey = np.linspace(20, 220, 64, dtype=np.float64)[None, :, None].repeat(16, axis=0)
    tinted = Image.fromarray(np.rint(grey * np.array([1.0, 0.8, 0.6])).astype(np.uint8))
    corrected = np.asarray(colour_constancy(tinted)).astype(int)
    assert np.ptp(np.asarray(tinted).astype(int), axis=2).max() > 80
    assert np.ptp(corrected, axis=2).max() <= 2
    assert np.corrcoef(corrected[0, :, 0], grey[0, :, 0])[0, 1] > 0.999


def test_colour_constancy_leaves_grey_and_black_pictures_as_they_are() -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    assert colour_constancy(grey).tobytes() == grey.tobytes()
    black = Image.new("RGB", (4, 4))
    assert colour_constancy(black).tobytes() == black.tobytes()


def skin(slope: tuple[float, float], lesion: tuple[slice, slice] | None = None) -> np.ndarray:
    """Skin of 160 in the middle, under light that grows by `slope` from edge to edge, rightwards and downwards."""
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 120), np.linspace(-0.5, 0.5, 90))
    pixels = np.full((90, 120, 3), (160.0, 110.0, 90.0))
    if lesion is not None:
        pixels[lesion] *= 0.4
    return pixels * (1 + slope[0] * x + slope[1] * y)[..., None]


def evened(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(even_light(Image.fromarray(np.rint(pixels).astype(np.uint8)))).astype(int)


@pytest.mark.parametrize("slope", [(0.5, 0.0), (-0.3, 0.4), (0.0, 0.0)])
@pytest.mark.parametrize(
    "lesion",
    [None, (slice(30, 60), slice(40, 80)), (slice(30, 60), slice(90, 120))],
    ids=["skin", "lesion", "lesion at the border"],
)
def test_under_even_light_skin_is_as_bright_everywhere_as_in_the_middle(
    slope: tuple[float, float], lesion: tuple[slice, slice] | None
) -> None:
    assert abs(evened(skin(slope, lesion)) - skin((0.0, 0.0), lesion)).max() < 6


def test_a_border_without_light_says_nothing_of_it() -> None:
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[10:50, 10:50] = np.arange(80, 120)[None, :, None]
    image = Image.fromarray(pixels)
    assert even_light(image) is image


@pytest.mark.parametrize("name", sorted(EVENED))
def test_a_turn_under_even_light_is_the_turn_of_the_evened_image(name: ViewName) -> None:
    image = picture()
    turned: ViewName = next(turn for turn in get_args(ViewName) if name == f"even_light_{turn}")
    assert VIEWS[name](image).tobytes() == VIEWS[turned](even_light(image)).tobytes()


def test_a_hue_shift_turns_colours_and_keeps_brightness() -> None:
    red = Image.new("RGB", (2, 2), (200, 40, 40))
    shifted = VIEWS["hue_shift"](red)
    assert shifted.getpixel((0, 0)) != (200, 40, 40)
    assert max(shifted.getpixel((0, 0))) == 200


@pytest.mark.parametrize("modality", ["clinical", "dermoscopic"])
def test_the_default_plan_is_four_views_twice_and_changes_no_medical_content(modality: Modality) -> None:
    draws = plan(CCTConfig(), modality, seed=0)
    assert [draw.view for draw in draws] == list(getattr(CCTConfig().views, modality)) * 2
    assert [draw.sample for draw in draws] == [0] * 4 + [1] * 4
    assert draws[0].view == "identity"
    assert not {"large_crop", "hue_shift"} & {draw.view for draw in draws}
    assert [draw.temperature for draw in draws] == [0.0] * 4 + [CCTConfig().temperature] * 4
    assert len({draw.seed for draw in draws}) == 8


def test_every_sample_of_a_view_may_be_drawn_at_the_temperature() -> None:
    assert {draw.temperature for draw in plan(CCTConfig(greedy_first=False), "clinical", seed=0)} == {0.7}


def test_a_plan_depends_on_its_seed_alone_and_a_draw_on_no_other_draw() -> None:
    config = CCTConfig()
    assert plan(config, "clinical", 7) == plan(config, "clinical", 7)
    assert {d.seed for d in plan(config, "clinical", 7)}.isdisjoint(d.seed for d in plan(config, "clinical", 8))
    more = CCTConfig(views={"clinical": ["identity", "hue_shift", "flip_horizontal"]}, samples_per_view=3)
    kept = {draw for draw in plan(config, "clinical", 7) if draw.view in ("identity", "flip_horizontal")}
    assert kept <= set(plan(more, "clinical", 7))


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ("[flip_horizontal]", "first view is identity"),
        ("[]", "first view"),
        ("[identity, half_turn, half_turn]", "twice"),
    ],
)
def test_views_without_the_untouched_image_or_with_one_twice_are_refused(views: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(CCTConfig, None, [f"views.clinical={views}"])
