"""Sources: published layouts read as they are, phantoms drawn the same everywhere."""

from pathlib import Path

import numpy as np
import pytest

from dermo_ray.config.prepare import SourceConfig
from dermo_ray.data.samples import Entry, Reject
from dermo_ray.data.sources import open_source
from dermo_ray.errors import UserError
from dermo_ray.phantom import AnnotationNoise
from dermo_ray.taxonomy import Taxonomy


def ham10000(root: Path):
    return open_source(SourceConfig(name="ham10000", root=root), seed=0)


def test_ham10000_reads_both_parts_and_groups_by_lesion(tmp_path, write_ham10000):
    rows = [("HAM_1", "ISIC_1", "mel"), ("HAM_1", "ISIC_2", "mel"), ("HAM_2", "ISIC_3", "nv")]
    write_ham10000(tmp_path, rows, {"ISIC_1": 1, "ISIC_2": 2, "ISIC_3": 2})
    source = ham10000(tmp_path)
    samples = [source.sample(entry) for entry in source.entries()]
    assert [sample.group for sample in samples] == ["ham10000/HAM_1", "ham10000/HAM_1", "ham10000/HAM_2"]
    assert [sample.image.parent.name[-1] for sample in samples] == ["1", "2", "2"]
    assert {sample.modality for sample in samples} == {"dermoscopic"}
    assert all(sample.morphology is None for sample in samples)


def test_every_row_of_the_table_is_listed_and_a_useless_one_refused(tmp_path, write_ham10000):
    write_ham10000(tmp_path, [("HAM_1", "ISIC_1", "mel"), ("", "ISIC_9", "nv"), ("HAM_3", "", "nv")], {"ISIC_1": 1})
    source = ham10000(tmp_path)
    entries = source.entries()
    assert [entry.id for entry in entries] == ["ham10000_ISIC_1", "ham10000_ISIC_9", "ham10000_row_3"]
    for entry, reason in zip(entries[1:], ("missing_file", "malformed_row"), strict=True):
        with pytest.raises(Reject, match=reason):
            source.sample(entry)


def test_an_image_without_a_lesion_is_a_group_of_its_own(tmp_path, write_ham10000):
    write_ham10000(tmp_path, [("", "ISIC_1", "mel")], {"ISIC_1": 1})
    source = ham10000(tmp_path)
    assert source.sample(source.entries()[0]).group == "ham10000/ISIC_1"


def test_ham10000_says_in_one_line_what_is_missing(tmp_path, write_ham10000):
    with pytest.raises(UserError, match="no such folder"):
        ham10000(tmp_path / "absent").entries()
    with pytest.raises(UserError, match="holds no images"):
        ham10000(tmp_path).entries()
    write_ham10000(tmp_path, [], {"ISIC_1": 1})
    with pytest.raises(UserError, match="has no rows"):
        ham10000(tmp_path).entries()
    (tmp_path / "HAM10000_metadata.csv").write_text("image_id,dx\nISIC_1,nv\n")
    with pytest.raises(UserError, match="no column lesion_id"):
        ham10000(tmp_path).entries()
    (tmp_path / "HAM10000_metadata.csv").unlink()
    with pytest.raises(UserError, match=r"holds no HAM10000_metadata\.csv"):
        ham10000(tmp_path).entries()


def test_the_default_taxonomy_knows_the_seven_published_codes():
    taxonomy = Taxonomy.load()
    labels = {taxonomy.canonical(code) for code in ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")}
    assert len(labels - {None}) == 7


def phantoms(seed: int, **options):
    return open_source(SourceConfig(name="phantoms", count=4, **options), seed)


def test_a_phantom_is_the_same_wherever_it_is_drawn():
    first, second = phantoms(3), phantoms(3)
    for entry in first.entries():
        one, other = first.sample(entry), second.sample(Entry(entry.id, dict(entry.facts)))
        assert np.array_equal(one.image, other.image)
        assert (one.morphology, one.annotation, one.raw_label) == (other.morphology, other.annotation, other.raw_label)


def test_two_seeds_share_no_phantom():
    assert not {e.facts["seed"] for e in phantoms(0).entries()} & {e.facts["seed"] for e in phantoms(1).entries()}


def test_noise_changes_what_annotators_write_and_leaves_picture_and_truth_alone():
    exact, noisy = phantoms(0), phantoms(0, noise=AnnotationNoise(random=1.0))
    differs = []
    for entry in exact.entries():
        one, other = exact.sample(entry), noisy.sample(entry)
        assert np.array_equal(one.image, other.image)
        assert one.annotation == one.morphology == other.morphology
        differs.append(other.annotation != other.morphology)
    assert any(differs)


def test_every_phantom_diagnosis_is_in_the_default_taxonomy():
    taxonomy = Taxonomy.load()
    source = phantoms(0)
    assert all(taxonomy.canonical(source.sample(entry).raw_label) for entry in source.entries())
