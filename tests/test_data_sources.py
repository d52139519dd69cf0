"""Sources: tables and folders as they are read, settings that don't fit, HAM10000, phantoms the same everywhere."""

import errno
import os
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pydantic import ValidationError

from dermo_ray.config.sources import SourceConfig, SourceName
from dermo_ray.data.samples import Entry, Reject
from dermo_ray.data.sources import SOURCES, open_source
from dermo_ray.data.sources.layout import fitzpatrick, image_files, listed, listed_sample, read_rows
from dermo_ray.errors import UserError
from dermo_ray.morphology import DERM7PT_KEY
from dermo_ray.phantom import AnnotationNoise
from dermo_ray.taxonomy import Taxonomy

DATA = Path(os.environ.get("DERMORAY_DATA", Path(__file__).parents[2] / "shared" / "data"))


def ham10000(root: Path, **options):
    return open_source(SourceConfig(name="ham10000", root=root, **options), seed=0)


@pytest.mark.parametrize("name", get_args(SourceName))
def test_every_name_of_a_source_opens_one_with_a_licence(name, tmp_path):
    needs = {
        "phantoms": {"count": 1},
        "folder": {"root": tmp_path, "modality": "clinical"},
        "table": {"root": tmp_path, "file": tmp_path / "a.csv", "modality": "clinical", "columns": {"image": "image"}},
    }
    source = open_source(SourceConfig(name=name, **needs.get(name, {"root": tmp_path / "absent"})), seed=0)
    assert source.licence
    assert name in SOURCES


@pytest.mark.parametrize("name", sorted(set(get_args(SourceName)) - {"phantoms", "table"}))
def test_a_missing_folder_is_one_line_that_says_what_belongs_there(name, tmp_path):
    options = {"modality": "clinical"} if name == "folder" else {}
    with pytest.raises(UserError, match=r"no such folder: .*; root is the folder that holds"):
        open_source(SourceConfig(name=name, root=tmp_path / "absent", **options), seed=0).entries()


# rows of a table


def test_rows_are_read_whatever_the_delimiter_and_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.csv").write_bytes('\ufeffid, label \n1,"a, b"\n2\n3,c,surplus\n'.encode())
    (tmp_path / "a.tab").write_text("id\tlabel\n1\ta, b\n2\t\n3\tc\n")
    expected = [{"id": "1", "label": "a, b"}, {"id": "2", "label": ""}, {"id": "3", "label": "c"}]
    assert read_rows(tmp_path / "a.csv", ("id", "label")) == expected
    assert read_rows(tmp_path / "a.tab", ("id", "label")) == expected


def test_a_quoted_cell_may_span_lines(tmp_path):
    (tmp_path / "a.csv").write_text('id,report,label\n1,"first\nsecond ""x""\n\nthird",nv\n2,short,mel\n')
    rows = read_rows(tmp_path / "a.csv", ("id",))
    assert [(row["id"], row["label"]) for row in rows] == [("1", "nv"), ("2", "mel")]
    assert rows[0]["report"].splitlines()[-1] == "third"


def test_a_quote_that_nothing_closes_costs_its_own_row_alone(tmp_path):
    lines = ["id,label", *(f"{number},nv" for number in range(300))]
    lines[7] = '6,"nv'
    lines[20] = '19,n"v'
    lines[9] = "8," + "x" * 200_000
    (tmp_path / "a.csv").write_bytes("\n".join(lines).encode() + b"\n300,\xff\xfe\0\n")
    rows = read_rows(tmp_path / "a.csv", ("id", "label"))
    assert [row["id"] for row in rows] == [str(number) if number != 8 else "" for number in range(301)]
    assert {row["label"] for row in rows[20:300]} == {"nv"}


def test_a_folder_that_can_not_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match=f"can't list {tmp_path} .Permission denied.: mend its permissions"):
        list(image_files(tmp_path))


def test_image_files_are_found_at_any_depth_sorted_and_without_what_is_hidden(tmp_path):
    for name in ("b/2.JPG", "b/c/1.png", "a/3.jpeg", "a/._3.jpeg", "a/notes.txt", ".cache/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "a" / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert list(image_files(tmp_path)) == [("a/3.jpeg", 5), ("b/2.JPG", 5), ("b/c/1.png", 5)]
    assert list(image_files(tmp_path, ("b", "absent"))) == [("b/2.JPG", 5), ("b/c/1.png", 5)]


@pytest.mark.parametrize(
    ("text", "skin_type"),
    [
        *((str(number), number) for number in range(1, 7)),
        *zip(("I", "ii", "III", "IV", "v", "VI"), range(1, 7), strict=True),
        *[("3.0", 3), ("FST4", 4), ("type II", 2), ("ii fair skin", 2), ("iv, olive", 4)],
        *((text, None) for text in ("", "NONE_SELECTED", "-1", "0", "7", "12", "3.5", "unknown", "indeterminate")),
    ],
)
def test_a_fitzpatrick_type_is_read_as_data_sets_write_it(text, skin_type):
    assert fitzpatrick(text) == skin_type


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"key": ""}, "malformed_row"),
        ({"image": None}, "missing_file"),
        ({"modality": None}, "unknown_modality"),
        ({"annotation": {DERM7PT_KEY: {"Streaks": "regular"}}}, "malformed_morphology"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_first_reason(facts, reason):
    known = {"key": "a", "image": ("a.jpg", 1), "modality": "dermoscopic"}
    with pytest.raises(Reject, match=reason):
        listed_sample(listed("x", 1, **(known | facts)), "x", Path("root"))


# settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "ham10000"}, "needs root=DIR"),
        ({"name": "isic", "root": "x", "modality": "clinical"}, "isic has no use for modality, which is for folder"),
        ({"name": "folder", "root": "x"}, "folder needs modality=clinical or modality=dermoscopic"),
        ({"name": "table", "root": "x", "file": "x.csv"}, r"table needs columns\.image=COLUMN"),
        ({"name": "table", "root": "x", "file": "x.csv", "columns": {"image": "a"}}, r"or columns\.modality=COLUMN"),
        ({"name": "table", "columns": {"image": "a", "image_pattern": "a.jpg"}}, r"image_pattern needs \{\}"),
        (
            {"name": "table", "columns": {"image": "a", "derm7pt": {"streaks": "s"}}},
            "a column for each of pigment_netw",
        ),
    ],
)
def test_settings_that_make_no_source_say_what_is_missing(options, message):
    with pytest.raises(ValidationError, match=message):
        SourceConfig.model_validate(options)


# HAM10000


def test_ham10000_reads_both_parts_and_groups_by_lesion(tmp_path, write_ham10000):
    rows = [("HAM_1", "ISIC_1", "mel"), ("HAM_1", "ISIC_2", "mel"), ("HAM_2", "ISIC_3", "nv")]
    write_ham10000(tmp_path, rows, {"ISIC_1": 1, "ISIC_2": 2, "ISIC_3": 2})
    source = ham10000(tmp_path)
    samples = [source.sample(entry) for entry in source.entries()]
    assert [sample.group for sample in samples] == ["ham10000/HAM_1", "ham10000/HAM_1", "ham10000/HAM_2"]
    assert [sample.image.parent.name[-1] for sample in samples] == ["1", "2", "2"]
    assert {sample.modality for sample in samples} == {"dermoscopic"}
    assert all(sample.morphology is None for sample in samples)


def test_an_alias_names_source_ids_and_groups(tmp_path, write_ham10000):
    write_ham10000(tmp_path, [("HAM_1", "ISIC_1", "mel")], {"ISIC_1": 1})
    source = ham10000(tmp_path, alias="vienna")
    sample = source.sample(source.entries()[0])
    assert (sample.id, sample.source, sample.group) == ("vienna_ISIC_1", "vienna", "vienna/HAM_1")


def test_ham10000_reads_the_table_as_dataverse_hands_it_out(tmp_path, write_ham10000):
    write_ham10000(tmp_path, [("HAM_1", "ISIC_1", "mel")], {"ISIC_1": 1})
    table = (tmp_path / "HAM10000_metadata.csv").read_text()
    (tmp_path / "HAM10000_metadata.csv").unlink()
    (tmp_path / "HAM10000_metadata.tab").write_text(table.replace(",", "\t"))
    source = ham10000(tmp_path)
    assert source.sample(source.entries()[0]).raw_label == "mel"


def test_every_row_of_the_table_is_listed_and_a_useless_one_refused(tmp_path, write_ham10000):
    write_ham10000(tmp_path, [("HAM_1", "ISIC_1", "mel"), ("", "ISIC_9", "nv"), ("HAM_3", "", "nv")], {"ISIC_1": 1})
    source = ham10000(tmp_path)
    entries = source.entries()
    assert [entry.id for entry in entries] == ["ham10000_ISIC_1", "ham10000_ISIC_9", "ham10000_row_3"]
    for entry, reason in zip(entries[1:], ("missing_file", "malformed_row"), strict=True):
        with pytest.raises(Reject, match=reason):
            source.sample(entry)


def test_an_image_whose_lesion_is_not_named_has_no_group(tmp_path, write_ham10000):
    write_ham10000(tmp_path, [("", "ISIC_1", "mel")], {"ISIC_1": 1})
    source = ham10000(tmp_path)
    assert source.sample(source.entries()[0]).group is None


def test_ham10000_says_in_one_line_what_is_missing(tmp_path, write_ham10000):
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


@pytest.mark.skipif(not (DATA / "ham10000").is_dir(), reason="the real HAM10000 images are not here")
def test_the_real_ham10000_is_listed_whole():
    source = ham10000(DATA / "ham10000")
    samples = [source.sample(entry) for entry in source.entries()]
    assert len({sample.id for sample in samples}) == 2378
    assert {sample.raw_label for sample in samples} == {"akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"}
    assert all(sample.group.startswith("ham10000/HAM_") for sample in samples)


def test_the_default_taxonomy_knows_the_seven_published_codes():
    taxonomy = Taxonomy.load()
    labels = {taxonomy.canonical(code) for code in ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")}
    assert len(labels - {None}) == 7


# phantoms


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


def test_phantoms_go_by_their_alias():
    source = phantoms(0, alias="drawn")
    sample = source.sample(source.entries()[0])
    assert (sample.id, sample.source) == ("drawn_0000000", "drawn")


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


def test_two_populations_of_phantoms_in_one_mixture_are_not_the_same_pictures() -> None:
    first, second = (
        open_source(SourceConfig(name="phantoms", count=20, alias=alias), seed=3) for alias in (None, "more")
    )
    drawn = [{entry.facts["seed"] for entry in source.entries()} for source in (first, second)]
    assert not drawn[0] & drawn[1]
    assert (first.sample(first.entries()[0]).image != second.sample(second.entries()[0]).image).any()
