"""Images: what is refused, and what a stored file looks like."""

import errno
import hashlib

import numpy as np
import pytest
from PIL import Image

from dermo_ray.config.prepare import ImageSettings
from dermo_ray.data import images
from dermo_ray.data.images import digest, read, store
from dermo_ray.data.samples import Reject

SETTINGS = ImageSettings()
PNG = ImageSettings(encoding="png")
KINDS = ("not_an_image", "damaged_image", "image_too_large", "image_too_small", "image_too_narrow")


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def load(source, settings) -> Image.Image:
    return images.load(read(source), settings)


def reason(path, settings=SETTINGS) -> str:
    with pytest.raises(Reject) as caught:
        load(path, settings)
    return caught.value.reason


def outcome(path) -> str:
    try:
        return "kept" if load(path, SETTINGS).mode == "RGB" else "kept in another mode"
    except Reject as verdict:
        return verdict.reason


def test_each_kind_of_bad_file_is_refused_by_its_own_name(tmp_path):
    good = tmp_path / "good.jpg"
    picture(64, 48).save(good)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "truncated.jpg").write_bytes(good.read_bytes()[:-600])
    picture(64, 20).save(tmp_path / "flat.jpg")
    assert reason(tmp_path / "absent.jpg") == "missing_file"
    assert reason(tmp_path) == "missing_file"
    assert reason(tmp_path / "empty.jpg") == "empty_file"
    assert reason(tmp_path / "text.jpg") == "not_an_image"
    assert reason(tmp_path / "truncated.jpg") == "damaged_image"
    assert reason(tmp_path / "flat.jpg") == "image_too_small"
    assert reason(good, ImageSettings(max_pixels=64 * 48 - 1)) == "image_too_large"


def test_a_file_that_can_not_be_read_is_refused_and_no_failure(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert reason(tmp_path / "file" / "below.jpg") == "unreadable_file"
    assert reason(tmp_path / ("x" * 300)) == "unreadable_file"
    assert reason(tmp_path / "a\0b") == "unreadable_file"
    for error in (PermissionError(errno.EACCES, "no"), OSError(errno.EIO, "no")):

        def fail(path, error=error):
            raise error

        monkeypatch.setattr("pathlib.Path.read_bytes", fail)
        assert reason(tmp_path / "file") == "unreadable_file"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_damage_to_a_file_makes_loading_fail_in_another_way(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "file"
    outcomes = set()
    for name in ("a.jpg", "a.png", "a.gif", "a.bmp", "a.tiff", "a.webp"):
        picture(40, 40).save(tmp_path / name)
        whole = np.frombuffer((tmp_path / name).read_bytes(), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), 1 + len(whole) // 50)] = rng.integers(0, 256)
            file.write_bytes(damaged[: rng.integers(1, len(whole) + 1)].tobytes())
            outcomes.add(outcome(file))
    assert {"kept", "not_an_image", "damaged_image"} <= outcomes <= {*KINDS, "kept"}


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_stored_image_is_upright_rgb_without_metadata_and_named_by_its_content(mode, tmp_path):
    original = tmp_path / "original.jpg"
    turned = Image.new(mode, (80, 40), (200, 100, 50, 0)[: len(mode)] if mode != "L" else 200)
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was turned: show the image rotated by a quarter
    exif[0x010F] = "a camera's maker"
    turned.save(original, exif=exif, comment="a patient's name", icc_profile=b"a profile")
    folder = tmp_path / "images"
    folder.mkdir()
    for settings, suffix in ((SETTINGS, "jpg"), (PNG, "png")):
        name = store(load(original, settings), folder, settings)
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()[:32]
        assert name == f"{digest[:2]}/{digest}.{suffix}"
        stored = Image.open(folder / name)
        assert stored.size == (40, 80)
        assert stored.mode == "RGB"
        assert not stored.getexif()
        assert not {"exif", "comment", "icc_profile"} & stored.info.keys()


@pytest.mark.parametrize(
    ("kind", "depth"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32), ("tif", np.float32)]
)
def test_deep_greys_keep_their_shades(kind, depth, tmp_path):
    ramp = np.linspace(1_000, 5_000, 40 * 40).reshape(40, 40).astype(depth)
    Image.fromarray(ramp).save(tmp_path / f"deep.{kind}")
    shown = np.asarray(load(tmp_path / f"deep.{kind}", SETTINGS))
    assert (shown.min(), shown.max(), shown.ndim) == (0, 255, 3)
    assert (np.diff(shown[..., 0].ravel().astype(int)) >= 0).all()
    assert abs(float(shown.mean()) - 127) < 1


def test_a_deep_grey_picture_of_one_shade_or_without_numbers_does_no_harm(tmp_path):
    Image.fromarray(np.full((40, 40), 7_000, np.uint16)).save(tmp_path / "flat.png")
    assert load(tmp_path / "flat.png", SETTINGS).mode == "RGB"
    Image.fromarray(np.full((40, 40), np.nan, np.float32)).save(tmp_path / "nothing.tif")
    assert reason(tmp_path / "nothing.tif") == "damaged_image"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_places_are_white(mode, tmp_path):
    colours = {
        "RGBA": ((9, 9, 9, 255), (0, 0, 0, 0)),
        "LA": ((9, 255), (0, 0)),
        "P": (1, 0),
        "RGB": ((9,) * 3, (0,) * 3),
    }
    opaque, transparent = colours[mode]
    drawn = Image.new(mode, (40, 40), opaque)
    if mode == "P":
        drawn.putpalette([0, 0, 0, 9, 9, 9])
    drawn.paste(transparent, (0, 0, 40, 20))
    one_colour = {} if mode.endswith("A") else {"transparency": transparent}
    drawn.save(tmp_path / "a.png", **one_colour)
    shown = np.asarray(load(tmp_path / "a.png", SETTINGS))
    assert (shown[:20] == 255).all()
    assert (shown[20:] == 9).all()


def test_the_hash_of_a_source_is_that_of_its_bytes_or_of_what_was_drawn(tmp_path):
    picture(40, 40).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert digest(read(tmp_path / "a.png")) == hashlib.sha256(data).hexdigest()[:32]
    pixels = np.asarray(picture(40, 40))
    assert digest(read(pixels)) == digest(pixels[:, ::-1][:, ::-1]) != digest(pixels[::-1])


def test_storing_the_same_picture_twice_leaves_one_file(tmp_path):
    assert store(picture(40, 40), tmp_path, PNG) == store(picture(40, 40), tmp_path, PNG)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 1


def test_png_storage_keeps_drawn_pixels_exactly(tmp_path):
    pixels = np.asarray(picture(48, 48))
    name = store(load(pixels, PNG), tmp_path, PNG)
    assert np.array_equal(np.asarray(Image.open(tmp_path / name)), pixels)


def test_a_large_image_is_scaled_to_the_longer_side_and_a_small_one_is_left_alone(tmp_path):
    picture(640, 320).save(tmp_path / "large.jpg")
    settings = ImageSettings(max_side=100)
    assert load(tmp_path / "large.jpg", settings).size == (100, 50)
    assert load(np.asarray(picture(60, 50)), settings).size == (60, 50)


def test_the_smallest_side_is_judged_before_scaling(tmp_path):
    picture(640, 320).save(tmp_path / "large.jpg")
    assert load(tmp_path / "large.jpg", ImageSettings(max_side=40, min_side=300)).size == (40, 20)


@pytest.mark.parametrize("size", [(2_000, 32), (32, 2_000), (401, 50)])
def test_a_strip_of_which_scaling_would_leave_a_line_is_refused(size, tmp_path):
    picture(*size).save(tmp_path / "strip.jpg")
    assert reason(tmp_path / "strip.jpg", ImageSettings(max_side=100)) == "image_too_narrow"
    picture(400, 50).save(tmp_path / "bar.jpg")
    assert load(tmp_path / "bar.jpg", ImageSettings(max_side=100)).size == (100, 12)
