"""Diagnoses are found by any of their names, never by a part of one, and closeness is a similarity."""

import csv
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dermo_ray.completion import is_one_label
from dermo_ray.data.partitions import Partition, partitions
from dermo_ray.data.sources.derm12345 import LABELS as DERM12345
from dermo_ray.errors import UserError
from dermo_ray.phantom.diagnoses import DIAGNOSES, Diagnosis
from dermo_ray.taxonomy import Leaf, Taxonomy, fold_label
from dermo_ray.taxonomy_files import ITEMS_KEY, bottom_up, mapping, nested, parse_json, parse_yaml, top_down

DEFAULT = Taxonomy.load()
LABELS = sorted((Path(__file__).parent / "labels").glob("*.txt"))
FITZPATRICK17K = (
    Path(os.environ.get("DERMORAY_DATA", Path(__file__).parents[2] / "shared" / "data"))
    / "fitzpatrick17k"
    / "fitzpatrick17k.csv"
)
HAM10000 = {
    "nv": "Melanocytic Nevus",
    "mel": "Melanoma",
    "bkl": "Benign Keratosis-like Lesion",
    "bcc": "Basal Cell Carcinoma",
    "akiec": "Actinic Keratosis",
    "vasc": "Vascular Lesion",
    "df": "Dermatofibroma",
}


def labels_of(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def test_the_default_tree_has_nine_superclasses_and_two_or_three_levels_above_its_leaves() -> None:
    assert len({leaf.path[0] for leaf in DEFAULT.leaves}) == 9
    assert len(DEFAULT.labels) >= 200
    assert {len(leaf.path) for leaf in DEFAULT.leaves} == {2, 3}


def test_there_is_a_list_of_labels_for_each_data_set_with_labels_of_its_own() -> None:
    assert [file.stem for file in LABELS] == [
        "bcn20000", "daffodil", "ddi", "derm12345", "derm7pt", "dermnet", "dermogpt", "fitzpatrick17k", "ham10000",
        "isic", "midas", "pad_ufes_20", "passion", "scin", "sd198", "snu134",
    ]  # fmt: skip
    counts = {file.stem: len(labels_of(file)) for file in LABELS}
    assert counts["fitzpatrick17k"] == 114
    assert counts["sd198"] == 198
    assert counts["snu134"] == 134
    assert counts["dermnet"] == 23
    assert set(labels_of(Path(LABELS[0].parent / "derm12345.txt"))) == set(DERM12345.values())


@pytest.mark.parametrize("file", LABELS, ids=lambda file: file.stem)
def test_every_label_of_a_data_set_is_in_the_default_tree(file: Path) -> None:
    assert [label for label in labels_of(file) if DEFAULT.canonical(label) is None] == []


@pytest.mark.skipif(not FITZPATRICK17K.is_file(), reason="needs fitzpatrick17k.csv")
def test_the_labels_and_partitions_of_fitzpatrick17k_are_those_of_its_table() -> None:
    with FITZPATRICK17K.open(encoding="utf-8", newline="") as lines:
        published = {
            (row["label"], Partition(row["nine_partition_label"], row["three_partition_label"]))
            for row in csv.DictReader(lines)
        }

    assert set(partitions().items()) == published
    assert all(DEFAULT.canonical(label) for label, _ in published)


def test_fitzpatrick17k_has_nine_partitions_in_three_and_its_malignant_ones_are_neoplasms() -> None:
    assert set(partitions()) == set(labels_of(LABELS[0].parent / "fitzpatrick17k.txt"))
    assert len({partition.nine for partition in partitions().values()}) == 9
    assert {partition.three for partition in partitions().values()} == {"benign", "malignant", "non-neoplastic"}
    assert {DEFAULT.path(label)[0] for label, p in partitions().items() if p.three == "malignant"} == {
        "Neoplasms & Proliferations"
    }


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("eczema", "Eczema / Dermatitis"),
        ("atopic eczema", "Atopic Dermatitis"),
        ("Acne and Rosacea Photos", "Acne / Rosacea"),
        ("Psoriasis pictures Lichen Planus and related diseases", "Psoriasis / Lichen Planus"),
        ("Lichen planus/lichenoid eruption", "Lichenoid Eruption"),
        ("reed or spitz nevus", "Reed / Spitz Nevus"),
        ("Morphea/Scleroderma", "Morphea / Scleroderma"),
        ("melanoma (less than 0.76 mm)", "Melanoma"),
        ("melanoma (in situ)", "Melanoma In Situ"),
        ("Malignant", "Malignant Lesion / Skin Cancer / Malignant Neoplasm"),
        ("Others", "Other / Not Specified"),
        ("hemangioma", "Hemangioma"),
        ("tinea", "Tinea"),
    ],
)
def test_a_name_for_several_diseases_is_no_name_of_one_of_them(text: str, label: str) -> None:
    assert DEFAULT.canonical(text) == label
    assert label in DEFAULT.labels


def test_the_default_tree_is_read_once() -> None:
    assert Taxonomy.load() is Taxonomy.load()


@pytest.mark.parametrize(("code", "label"), HAM10000.items())
def test_the_codes_of_ham10000_name_seven_leaves(code: str, label: str) -> None:
    assert DEFAULT.canonical(code) == label
    assert label in DEFAULT.labels


@pytest.mark.parametrize("diagnosis", DIAGNOSES.values(), ids=DIAGNOSES)
def test_every_phantom_diagnosis_is_a_leaf_where_the_phantoms_say(diagnosis: Diagnosis) -> None:
    assert diagnosis.name in DEFAULT.labels
    path = DEFAULT.path(diagnosis.name)
    assert (path[0], path[-1]) == (diagnosis.superclass, diagnosis.subclass)
    assert {DEFAULT.canonical(synonym) for synonym in diagnosis.synonyms} <= {diagnosis.name}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("melanoma", "Melanoma"),
        ("  MELANOMA. ", "Melanoma"),
        ("**Melanoma**", "Melanoma"),
        ("basal-cell carcinoma", "Basal Cell Carcinoma"),
        ("Basal\u00a0Cell\tCarcinoma", "Basal Cell Carcinoma"),
        ("Nevus/Mole/Melanocytic Nevus", "Melanocytic Nevus"),
        ("Nævus", None),
        ("Névus", "Melanocytic Nevus"),
        ("Melanoma of the ear", None),
        ("not melanoma", None),
        ("melanom", None),
        ("Melanoma, Melanocytic Nevus", None),
        ("\u041celanoma", None),
        ("Neoplasms & Proliferations", None),
        ("", None),
        ("?!", None),
        ("melanoma " * 10_000, None),
    ],
)
def test_a_label_is_known_by_its_letters_and_never_by_a_part(text: str, label: str | None) -> None:
    assert DEFAULT.canonical(text) == label


def test_the_path_leads_from_the_superclass_to_the_parent() -> None:
    assert DEFAULT.path("nv") == [
        "Neoplasms & Proliferations",
        "Benign Tumors, Growths & Cysts",
        "Melanocytic Lesions (Nevi/Moles)",
    ]
    assert DEFAULT.path("SJS/TEN") == [
        "Reactions to External Agents (Physical, Chemical, Drug-induced)",
        "Drug Reactions",
    ]


def test_a_label_outside_the_tree_has_no_path_and_no_closeness() -> None:
    with pytest.raises(KeyError, match="Sparkle"):
        DEFAULT.path("Sparkle")
    assert DEFAULT.similarity("Sparkle", "Melanoma") == DEFAULT.similarity("Sparkle", "Sparkle") == 0.0


@pytest.mark.parametrize(
    ("a", "b", "closeness"),
    [
        ("Melanoma", "mel", 1.0),
        ("Melanoma", "Basal Cell Carcinoma", 2 * 2 / (3 + 3)),
        ("Melanoma", "Actinic Keratosis", 2 * 1 / (3 + 3)),
        ("Melanoma", "Melanocytic Nevus", 2 * 1 / (3 + 4)),
        ("Blue Nevus", "Melanocytic Nevus", 2 * 3 / (4 + 4)),
        ("Seborrheic Keratosis", "Melanocytic Nevus", 2 * 2 / (3 + 4)),
        ("Melanoma", "Psoriasis", 0.0),
    ],
)
def test_closeness_is_as_worked_by_hand(a: str, b: str, closeness: float) -> None:
    assert DEFAULT.similarity(a, b) == pytest.approx(closeness)


def test_siblings_share_the_parent_and_leave_out_the_label_itself() -> None:
    siblings = DEFAULT.siblings("mel")

    assert {"Basal Cell Carcinoma", "Squamous Cell Carcinoma", "Nodular Melanoma"} <= set(siblings)
    assert not {"Melanoma", "Kaposi Sarcoma", "Melanocytic Nevus"} & set(siblings)
    assert DEFAULT.siblings("Systemic Disease") == []


def test_every_label_of_the_default_tree_can_be_written_as_a_diagnosis() -> None:
    assert all(is_one_label(label) and DEFAULT.canonical(label) == label for label in DEFAULT.labels)


paths = st.lists(st.sampled_from("abc"), max_size=4).map(tuple)
trees = st.lists(paths, min_size=3, max_size=12).map(
    lambda found: Taxonomy([Leaf(f"leaf {number}", path) for number, path in enumerate(found)])
)


@settings(max_examples=300, deadline=None)
@given(trees, st.data())
def test_closeness_is_symmetric_bounded_and_one_only_for_the_same_leaf(tree: Taxonomy, data: st.DataObject) -> None:
    a, b = data.draw(st.sampled_from(tree.labels)), data.draw(st.sampled_from(tree.labels))

    closeness = tree.similarity(a, b)

    assert 0.0 <= closeness <= 1.0
    assert closeness == tree.similarity(b, a)
    assert (closeness == 1.0) == (a == b)


@settings(max_examples=200, deadline=None)
@given(trees)
def test_a_sibling_is_never_further_than_any_leaf_of_the_same_depth(tree: Taxonomy) -> None:
    for label in tree.labels:
        alike = [other for other in tree.labels if other != label and len(tree.path(other)) == len(tree.path(label))]
        for sibling in tree.siblings(label):
            assert tree.similarity(label, sibling) == max(tree.similarity(label, other) for other in alike)


@settings(max_examples=300, deadline=None)
@given(st.text(), st.text())
def test_no_text_makes_a_lookup_fail(a: str, b: str) -> None:
    assert DEFAULT.canonical(a) in {None, *DEFAULT.labels}
    assert 0.0 <= DEFAULT.similarity(a, b) <= 1.0


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_our_yaml_reads_with_leaves_at_any_depth(tmp_path: Path) -> None:
    tree = Taxonomy.load(write(tmp_path / "tree.yaml", "A:\n  B:\n    x: [ex, ecks]\n  y: []\nz: []\n"))

    assert tree.labels == ("x", "y", "z")
    assert [tree.path(label) for label in tree.labels] == [["A", "B"], ["A"], []]
    assert tree.canonical("Ecks") == "x"


def test_both_released_shapes_read_as_the_same_tree(tmp_path: Path) -> None:
    bottom_up = {"Acne": ["Adnexal", "Acneiform"], "Wart": ["Infections"], "Tinea": ["Infections", "Fungal"]}
    top_down = {
        "Adnexal": {"Acneiform": ["Acne"]},
        "Infections": {"_items_": ["Wart"], "Fungal": {"_items_": ["Tinea"]}},
    }
    trees = [
        Taxonomy.load(write(tmp_path / f"{number}.json", shape)) for number, shape in enumerate((bottom_up, top_down))
    ]

    for tree in trees:
        assert tree.labels == ("Acne", "Wart", "Tinea")
        assert {label: tree.path(label) for label in tree.labels} == bottom_up


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("t.yaml", "A:\n  x: []\nB:\n  X: []\n", ["A > x", "B > X"]),
        ("t.yaml", "A:\n  x: [ex]\nB:\n  y: [Ex]\n", ["'ex'", "A > x", "B > y"]),
        ("t.yaml", "A:\n  x: []\n  y: [X]\n", ["A > x", "A > y"]),
        ("t.yaml", "A:\n  x: []\n  x: []\n", ["'x'", "twice"]),
        ("t.json", '{"x": ["A"], "x": ["B"]}', ["'x'", "twice"]),
        ("t.json", {"A": {"_items_": ["x", "x"]}}, ["A > x"]),
        ("t.yaml", "A:\n  x:\n", ["'x'", "[]"]),
        ("t.yaml", "A:\n  x: ex\n", ["'x'", "[]"]),
        ("t.yaml", "A:\n  x: [no]\n", ["False", "quote"]),
        ("t.yaml", "A:\n  '!': []\n", ["without letters"]),
        ("t.yaml", "A:\n  x or y: []\n", ["x or y", "one label"]),
        ("t.yaml", "? [a]\n: {}\n", ["t.yaml"]),
        ("t.yaml", "A: [", ["t.yaml"]),
        ("t.yaml", "", ["t.yaml", "mapping"]),
        ("t.yaml", "A: {}", ["t.yaml", "no diagnosis"]),
        ("t.yaml", "A:\n  _items_:\n    x: []\n", ["_items_", "A > _items_ > x", "rename"]),
        ("t.json", '{"x": ["_items_"]}', ["_items_", "rename"]),
        ("t.json", '{"raw": "x"}', ["t.json", "mapping beside"]),
        ("t.json", "{", ["t.json"]),
        ("t.json", [], ["t.json", "mapping"]),
        ("t.json", {"A": {"B": 1}}, ["A > B"]),
        ("t.json", {"x": [1]}, ["1", "quote"]),
    ],
)
def test_a_malformed_tree_is_refused_in_one_line_that_names_the_cause(
    tmp_path: Path, name: str, content: object, parts: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        Taxonomy.load(write(tmp_path / name, content))

    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such taxonomy file: .*absent\.yaml"):
        Taxonomy.load(tmp_path / "absent.yaml")


def test_a_mapping_beside_a_tree_adds_names(tmp_path: Path) -> None:
    tree = write(tmp_path / "tree.json", {"Wart": ["Infections"], "Acne": ["Adnexal"]})
    names = write(tmp_path / "mapping.json", {"verruca": "Wart", "HPV": "wart", "Wart": "Wart", "pimples": "acne"})

    loaded = Taxonomy.load(tree, names)

    assert loaded.leaves == (
        Leaf("Wart", ("Infections",), ("verruca", "HPV")),
        Leaf("Acne", ("Adnexal",), ("pimples",)),
    )
    assert Taxonomy.load(mapping=write(tmp_path / "ours.json", {"the spot": "nv"})).canonical("The spot") == (
        "Melanocytic Nevus"
    )
    assert DEFAULT.canonical("The spot") is None


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"Nevus": "Melanoma"}, ["'nevus'", "Melanocytic Nevus", "Melanoma", "keep one"]),
        ({"spot": "nv", "SPOT": "mel"}, ["'spot'", "Melanocytic Nevus", "Melanoma"]),
        ({"spot": "Sparkle"}, ["'spot'", "'Sparkle'", "not in the tree"]),
        ({"spot": ["nv"]}, ["mapping", "not text"]),
        ('{"spot": "nv", "spot": "nv"}', ["'spot'", "twice"]),
        ([], ["mapping", "can't be read"]),
        ("{", ["mapping", "can't be read"]),
        ({"?!": "nv"}, ["without letters"]),
    ],
)
def test_a_mapping_that_contradicts_the_tree_is_refused(tmp_path: Path, content: object, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        Taxonomy.load(mapping=write(tmp_path / "m.json", content))

    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in (*parts, "m.json")), str(error.value)


def test_a_missing_mapping_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such mapping file: .*absent\.json"):
        Taxonomy.load(mapping=tmp_path / "absent.json")


words = st.text(max_size=10).filter(lambda text: text != ITEMS_KEY)
names = words.filter(lambda name: bool(fold_label(name)) and is_one_label(name))


@st.composite
def named_trees(draw: st.DrawFn) -> Taxonomy:
    """Leaves with any text for labels, categories and up to three synonyms each."""
    categories = st.sampled_from(draw(st.lists(words, min_size=1, max_size=4)))
    pool = iter(draw(st.lists(names, min_size=1, max_size=14, unique_by=fold_label)))
    leaves = []
    for label in pool:
        path = draw(st.lists(categories, max_size=3))
        leaves.append(Leaf(label, tuple(path), tuple(itertools.islice(pool, draw(st.integers(0, 3))))))
    return Taxonomy(leaves)


@settings(max_examples=200, deadline=None)
@given(named_trees())
def test_what_is_written_as_released_json_reads_as_the_same_tree(tree: Taxonomy) -> None:
    upwards = Taxonomy(parse_json(json.dumps(bottom_up(tree.leaves))))
    downwards = Taxonomy(parse_json(json.dumps(top_down(tree.leaves))))

    assert upwards.with_names(mapping(tree.leaves)).leaves == tree.leaves
    assert set(downwards.with_names(mapping(tree.leaves)).leaves) == set(tree.leaves)


@settings(max_examples=200, deadline=None)
@given(named_trees())
def test_what_is_written_as_yaml_reads_as_the_same_tree(tree: Taxonomy) -> None:
    try:
        shape = nested(tree.leaves)
    except UserError:
        assume(False)

    assert set(parse_yaml(yaml.safe_dump(shape, sort_keys=False))) == set(tree.leaves)


@pytest.mark.parametrize(
    ("one", "other", "both_may_be_right"),
    [
        ("Compound Nevus", "nv", True),
        ("Benign Lesion", "Spitz Nevus", True),
        ("bkl", "Solar Lentigo", True),
        ("Melanocytic Nevus", "Melanoma", False),
        ("Compound Nevus", "Junctional Nevus", False),
        ("Benign Lesion", "Malignant", False),
    ],
)
def test_an_umbrella_overlaps_what_it_covers_and_nothing_else(one: str, other: str, both_may_be_right: bool) -> None:
    assert DEFAULT.overlap(one, other) == DEFAULT.overlap(other, one) == both_may_be_right


def test_what_a_leaf_covers_is_a_leaf_or_category_of_the_tree_and_stands_in_yaml_alone() -> None:
    assert set(parse_yaml(yaml.safe_dump(nested(DEFAULT.leaves)))) == set(DEFAULT.leaves)
    assert "_covers_" not in top_down(DEFAULT.leaves)
    with pytest.raises(UserError, match="the taxonomy: a covers 'c', which is neither a leaf nor a category"):
        Taxonomy([Leaf("a", (), covers=("b", "c")), Leaf("b", ())])
    with pytest.raises(ValueError, match="_covers_ names 'c', which is no leaf"):
        parse_yaml("{a: [], _covers_: {c: [a]}}")


@pytest.mark.parametrize("write_shape", [bottom_up, top_down, nested])
def test_the_default_tree_survives_each_shape(write_shape: Callable[..., dict[str, Any]]) -> None:
    text = json.dumps(write_shape(DEFAULT.leaves))  # JSON is YAML too
    read = parse_yaml(text) if write_shape is nested else parse_json(text)

    again = Taxonomy(read).with_names(mapping(DEFAULT.leaves))

    assert {label: again.path(label) for label in again.labels} == bottom_up(DEFAULT.leaves)
    assert all(again.canonical(name) == label for name, label in mapping(DEFAULT.leaves).items())


def test_leaves_stand_under_items_in_a_top_down_file() -> None:
    leaves = [Leaf("Wart", ("Infections",)), Leaf("Tinea", ("Infections", "Fungal")), Leaf("Other", ())]

    assert top_down(leaves) == {
        "Infections": {ITEMS_KEY: ["Wart"], "Fungal": {ITEMS_KEY: ["Tinea"]}},
        ITEMS_KEY: ["Other"],
    }


@pytest.mark.parametrize("paths", [((), ("A",)), (("A",), ())])
def test_a_leaf_named_like_a_category_beside_it_can_not_be_written_as_yaml(paths: tuple[tuple[str, ...], ...]) -> None:
    leaves = [Leaf("A" if not path else "x", path) for path in paths]

    with pytest.raises(UserError, match="'A' is a category and a diagnosis"):
        nested(leaves)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("melanom", "Melanoma"),
        ("Nevus, dysplastic type", "Dysplastic Nevus"),
        ("basal_cell_carcinma", "Basal Cell Carcinoma"),
        ("seborhoeic keratosis", "Seborrheic Keratosis"),
        ("Psoriasis vulgaris", "Psoriasis"),
    ],
)
def test_the_nearest_label_to_a_misspelt_one_is_the_one_that_was_meant(text: str, first: str) -> None:
    nearest = DEFAULT.nearest(text)

    assert nearest[0] == first
    assert len(nearest) == len(set(nearest)) <= 3
    assert set(nearest) <= set(DEFAULT.labels)


def test_as_many_candidates_are_named_as_asked_for_and_none_for_nonsense() -> None:
    assert len(DEFAULT.nearest("lentigo maligna melanom", count=5)) == 5
    assert len(DEFAULT.nearest("melanoma", count=1)) == 1
    assert DEFAULT.nearest("xq 17") == DEFAULT.nearest("") == []


@settings(max_examples=30, deadline=None)
@given(st.text())
def test_no_text_makes_the_search_for_candidates_fail(text: str) -> None:
    assert set(DEFAULT.nearest(text)) <= set(DEFAULT.labels)
