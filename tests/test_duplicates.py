"""Near-duplicates: the perceptual hash, the search for pairs, and which images are dropped."""

import tracemalloc
from io import BytesIO

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from dermo_ray.config import load
from dermo_ray.config.duplicates import DuplicateSettings
from dermo_ray.data.duplicates import components, judge, near_pairs, perceptual_hash, same_files
from dermo_ray.errors import UserError

NOBODY = np.zeros(5, bool)


def picture(seed: int) -> Image.Image:
    """A smooth coloured pattern, as unlike others as photographs are unlike each other."""
    noise = np.random.default_rng(seed).normal(size=(120, 160, 3))
    smooth = ndimage.gaussian_filter(noise, (12, 12, 0))
    return Image.fromarray(np.uint8(np.clip(128 + 60 * smooth / smooth.std(), 0, 255)))


def compressed(image: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def bits_apart(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def brute_force(hashes: np.ndarray, distance: int) -> set[tuple[int, int]]:
    pairs = set()
    for first in range(len(hashes)):
        apart = np.bitwise_count(hashes[first + 1 :] ^ hashes[first])
        pairs.update((first, first + 1 + int(offset)) for offset in np.flatnonzero(apart <= distance))
    return pairs


def found(hashes: np.ndarray, distance: int) -> set[tuple[int, int]]:
    return {tuple(sorted(pair)) for block in near_pairs(hashes, distance) for pair in block.tolist()}


def walked(count: int, pairs: set[tuple[int, int]]) -> list[int]:
    """The smallest index that can be reached from each, by walking over the pairs."""
    neighbours: dict[int, set[int]] = {index: {index} for index in range(count)}
    for a, b in pairs:
        neighbours[a].add(b)
        neighbours[b].add(a)
    reached: dict[int, int] = {}
    for start in range(count):
        ahead = [start]
        while ahead:
            index = ahead.pop()
            if index not in reached:
                reached[index] = start
                ahead.extend(neighbours[index])
    return [reached[index] for index in range(count)]


def planted(count: int, seed: int = 0) -> np.ndarray:
    """Random hashes, half of them a few flipped bits (0 to 5) away from another one."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    for index in rng.permutation(count)[: count // 2]:
        flips = rng.choice(64, rng.integers(0, 6), replace=False)
        hashes[index] = hashes[rng.integers(count)] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    return hashes


@st.composite
def close_hashes(draw: st.DrawFn) -> np.ndarray:
    """Up to 30 hashes around a few centres, many of them near or equal to another."""
    centres = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3))
    flips = st.lists(st.integers(0, 63), max_size=4, unique=True).map(lambda bits: sum(1 << bit for bit in bits))
    members = draw(st.lists(st.tuples(st.sampled_from(centres), flips), max_size=30))
    return np.array([centre ^ flipped for centre, flipped in members], np.uint64)


def test_the_hash_is_the_one_that_the_imagehash_library_prints():
    for seed in range(5):
        image = picture(seed)
        assert f"{perceptual_hash(image):016x}" == str(imagehash.phash(image))


def test_a_copy_in_another_size_or_compression_is_near_and_other_pictures_are_far():
    originals = [perceptual_hash(picture(seed)) for seed in range(10)]
    for seed, original in enumerate(originals):
        assert bits_apart(original, perceptual_hash(compressed(picture(seed), quality=70))) <= 2
        assert bits_apart(original, perceptual_hash(picture(seed).resize((320, 240)))) <= 2
    others = [bits_apart(a, b) for place, a in enumerate(originals) for b in originals[:place]]
    assert min(others) > 8


@pytest.mark.parametrize("distance", [0, 2, 5, 8])
def test_the_pairs_and_components_of_5000_hashes_are_those_of_brute_force(distance):
    hashes = planted(5_000)
    distinct = np.unique(hashes)
    expected = brute_force(distinct, distance)
    assert len(expected) > 500 or distance == 0
    assert found(distinct, distance) == expected
    assert components(hashes, distance).tolist() == walked(5_000, brute_force(hashes, distance))


@given(close_hashes(), st.integers(0, 4))
def test_components_are_those_of_brute_force(hashes, distance):
    assert components(hashes, distance).tolist() == walked(len(hashes), brute_force(hashes, distance))


@given(close_hashes(), st.integers(0, 4))
def test_pairs_are_those_of_brute_force(hashes, distance):
    distinct = np.unique(hashes)
    assert found(distinct, distance) == brute_force(distinct, distance)


def test_equal_files_are_one_component_named_by_its_first_member():
    assert same_files(["b", "a", "b", "c", "a"]).tolist() == [0, 1, 0, 3, 1]
    assert same_files([]).tolist() == []


def test_a_chain_of_near_images_is_one_component_named_by_its_first_member():
    chain = np.array([0b0, 0xFFFF_FFFF, 0b11, 0b1111, 0b11_1111], np.uint64)
    assert components(chain[[0, 1, 4]], 2).tolist() == [0, 1, 2]
    assert components(chain, 2).tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("free_bits", [0, 16], ids=["all equal", "all alike in 48 bits"])
def test_images_that_nearly_all_look_alike_take_little_memory(free_bits):
    hashes = np.random.default_rng(0).integers(0, 2**free_bits, 100_000, dtype=np.uint64)
    tracemalloc.start()
    component = components(hashes, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(component.tolist()) == {0}
    assert peak < 400 * 2**20


def test_of_a_component_the_first_image_with_a_morphology_is_kept_and_else_the_first():
    component = np.array([0, 0, 0, 3, 3])
    annotated = np.array([False, True, True, False, False])
    verdicts = judge(component, benchmark=NOBODY, annotated=annotated, keep="one")
    assert verdicts.reasons == ["near_duplicate", None, "near_duplicate", None, "near_duplicate"]
    assert verdicts.instead.tolist() == [1, 1, 1, 3, 3]


def test_nothing_is_dropped_where_all_are_to_be_kept_but_what_overlaps_a_benchmark():
    component = np.array([0, 0, 2, 2, 2])
    benchmark = np.array([False, False, False, False, True])
    verdicts = judge(component, benchmark=benchmark, annotated=NOBODY, keep="all")
    assert verdicts.reasons == [None, None, "benchmark_overlap", "benchmark_overlap", None]
    assert verdicts.instead.tolist() == [0, 1, 4, 4, 4]


def test_a_morphology_does_not_save_an_image_that_overlaps_a_benchmark_whose_images_all_stay():
    component = np.array([0, 0, 0, 3, 4])
    benchmark = np.array([False, True, True, False, True])
    annotated = np.array([True, False, False, True, True])
    verdicts = judge(component, benchmark=benchmark, annotated=annotated, keep="one")
    assert verdicts.reasons == ["benchmark_overlap", None, None, None, None]
    assert verdicts.instead.tolist() == [1, 1, 2, 3, 4]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), max_size=12))
def test_each_component_keeps_one_training_image_or_all_of_a_benchmark(images):
    hashes = np.array([1 << (9 * cluster) for cluster, _, _ in images], np.uint64)
    benchmark, annotated = (np.array([image[place] for image in images], bool) for place in (1, 2))
    component = components(hashes, 0)
    verdicts = judge(component, benchmark=benchmark, annotated=annotated, keep="one")
    kept = np.array([reason is None for reason in verdicts.reasons], bool)
    for label in set(component.tolist()):
        inside = component == label
        if benchmark[inside].any():
            assert kept[inside].tolist() == benchmark[inside].tolist()
        else:
            assert kept[inside].sum() == 1
            assert annotated[inside & kept].any() == annotated[inside].any()
    assert kept[verdicts.instead].all()
    assert (component[verdicts.instead] == component).all()


@pytest.mark.parametrize("override", ["distance=-1", "distance=9", "keep=some"])
def test_a_setting_that_makes_no_sense_is_refused(override):
    with pytest.raises(UserError, match=override.partition("=")[0]):
        load(DuplicateSettings, None, [override])
