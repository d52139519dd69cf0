"""Diagnoses are found by any of their names, never by a part of one, and closeness is a similarity."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermo_ray.completion import is_one_label
from dermo_ray.errors import UserError
from dermo_ray.phantom.diagnoses import DIAGNOSES, Diagnosis
from dermo_ray.taxonomy import Leaf, Taxonomy

DEFAULT = Taxonomy.load()
HAM10000 = {
    "nv": "Melanocytic Nevus",
    "mel": "Melanoma",
    "bkl": "Benign Keratosis-like Lesion",
    "bcc": "Basal Cell Carcinoma",
    "akiec": "Actinic Keratosis",
    "vasc": "Vascular Lesion",
    "df": "Dermatofibroma",
}


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
        ("Melanoma in situ", None),
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
    assert set(DEFAULT.siblings("mel")) == {"Basal Cell Carcinoma", "Squamous Cell Carcinoma"}
    assert DEFAULT.siblings("Vitiligo") == []


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
