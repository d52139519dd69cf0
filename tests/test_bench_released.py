"""Released files: whatever their shape, every row becomes an item of its own or is counted under a reason."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dermo_ray.bench.load import load_items
from dermo_ray.bench.published import comparability
from dermo_ray.bench.released import FILES, ImageIndex, read, read_release, read_skin_tones
from dermo_ray.bench.tasks import TASKS, prompt
from dermo_ray.config.bench import ItemSettings
from dermo_ray.errors import UserError
from dermo_ray.morphology import DERM7PT_KEY, SKINCON_KEY
from dermo_ray.taxonomy import Leaf, Taxonomy

FOUR = "A) Cyst\nB) Melanoma\nC) Nevus\nD) Psoriasis"
TREE = Taxonomy(
    [
        Leaf("Melanoma", ("Neoplasms", "Malignant"), ("Malignant Melanoma",)),
        Leaf("Merkel Cell Carcinoma", ("Neoplasms", "Malignant")),
        Leaf("Nevus", ("Neoplasms", "Benign")),
        Leaf("Psoriasis", ("Inflammation",)),
    ]
)


def row(
    name: object = "x",
    image: object = "ddi/images/000001.png",
    question: str = f"<image>\nWhich is it?\n{FOUR}",
    answer: str = "B) Melanoma",
):
    turns = [("human", question), ("gpt", answer)]
    return {"id": name, "image": image, "conversations": [{"from": who, "value": said} for who, said in turns]}


def write(path: Path, rows: list, *, lines: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, rows)) + "\n\n" if lines else json.dumps(rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("lines", [False, True])
def test_arrays_and_lines_are_read_whatever_the_file_is_called(tmp_path, suffix, lines):
    found = read("t2.1", write(tmp_path / f"file{suffix}", [row("1"), row("2", answer="C) Nevus")], lines=lines))
    assert [item.id for item in found.items] == ["t2.1/1", "t2.1/2"]
    assert [item.questions[0].right for item in found.items] == [1, 2]
    assert found.items[0].facts.label == "Melanoma"
    assert found.items[0].reference == "B) Melanoma"
    assert prompt(found.items[0]) == f"<image>\nWhich is it?\n{FOUR}"
    assert found.left_out == {}


def test_ids_that_repeat_or_are_missing_become_ids_of_their_own(tmp_path):
    path = write(tmp_path / "file.json", [row("x"), row("x"), row("x#2"), row(None), row(7), row("x")])
    ids = [item.id for item in read("t4", path).items]
    assert ids == ["t4/x", "t4/x#2", "t4/x#2#2", "t4/row_000004", "t4/7", "t4/x#3"]
    assert [item.facts.source_id for item in read("t4", path).items][:3] == ["x", "x", "x#2"]
    assert not {*ids} & {item.id for item in read("t2.1", path).items}


def test_twenty_five_options_go_up_to_y(tmp_path):
    labels = [f"Disease {number}" for number in range(25)]
    question = "Which?\n" + "\n".join(f"{chr(65 + n)}) {label}" for n, label in enumerate(labels))
    found = read("t2.2", write(tmp_path / "file.json", [row(question=question, answer="Y) Disease 24")]))
    assert (len(found.items[0].questions[0].options), found.items[0].questions[0].right) == (25, 24)


def test_images_are_found_in_another_letter_case_and_only_where_that_is_clear(tmp_path):
    for name in ("Derm7pt/images/NEL/NEL025.JPG", "two/a.png", "two/A.png", "outside.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    index = ImageIndex(tmp_path / "images")
    assert index.find("derm7pt/Images/Nel/nel025.jpg") == tmp_path / "images/Derm7pt/images/NEL/NEL025.JPG"
    assert index.find("two/A.png") == tmp_path / "images/two/A.png"
    assert index.find("TWO/a.png") == tmp_path / "images/two/a.png"
    for nothing in ("two/a.PNG", "two", "none/a.png", "../images/outside.png", str(tmp_path / "images/outside.png")):
        assert index.find(nothing) is None
    with pytest.raises(UserError, match="no such folder"):
        ImageIndex(tmp_path / "nowhere")


def test_rows_that_can_not_be_asked_are_counted_by_reason(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/here.png").touch()
    rows = [
        row("1", "HERE.png"),
        row("2", "gone.png"),
        row("3", "here.png", question="Which is it?"),
        row("4", "here.png", answer="A) Melanoma"),
        row("5", "here.png", answer="E) Milia"),
        row("6", "here.png", answer=" "),
        row("7", ["here.png", "here.png"]),
    ]
    found = read("t2.1", write(tmp_path / "file.json", rows), ImageIndex(tmp_path / "images"))
    here = str(tmp_path / "images/here.png")
    assert [(item.id, item.images) for item in found.items] == [("t2.1/1", (here,)), ("t2.1/7", (here, here))]
    assert prompt(found.items[1]).startswith("<image><image>\nWhich")
    assert found.left_out == {"answer_not_an_option": 2, "missing_image": 1, "no_options": 1, "no_reference": 1}


def test_a_file_of_nothing_but_such_rows_is_an_error(tmp_path):
    (tmp_path / "images").mkdir()
    path = write(tmp_path / "file.json", [row("1"), row("2")])
    with pytest.raises(UserError, match=r"gives no item of t2\.1: missing_image \(2\)"):
        read("t2.1", path, ImageIndex(tmp_path / "images"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "neither a JSON array nor one object a line"),
        ('{"id": 1}\n', "record 1 can't be read: image"),
        ('[{"id": "a", "image": "a.png", "conversations": [{"from": "human"}]}]', "record 1 can't be read"),
        ("[3]", "record 1 can't be read"),
    ],
)
def test_a_malformed_file_is_named_with_its_record(tmp_path, text, message):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read("t2.1", tmp_path / "file.json")
    with pytest.raises(UserError, match="no such file"):
        read("t2.1", tmp_path / "other.json")


def test_attribute_questions_say_what_they_ask_about(tmp_path):
    checklist = row(
        question="<image>\nDescribe the nature of streaks.\nA) Absent\nB) Regular\nC) Irregular", answer="A) Absent"
    )
    assert read("t1.3", write(tmp_path / "a.json", [checklist])).items[0].facts.concept == "Streaks"
    feature = row(question="<image>\nWhich applies?\nA) Plaque\nB) Abscess\nC) Friable\nD) Black", answer="D) Black")
    assert read("t1.4", write(tmp_path / "b.json", [feature])).items[0].facts.concept == "Black"


@pytest.mark.parametrize(
    ("image", "morphology", "modality"),
    [
        ("isic/images/clinical_overview/a.jpg", {DERM7PT_KEY: {"pigment_network": "absent"}}, "dermoscopic"),
        ("isic/images/dermoscopic/a.jpg", {SKINCON_KEY: ["Scale"]}, "clinical"),
        ("isic/images/dermoscopic/a.jpg", None, "dermoscopic"),
        ("derm7pt/images/a.jpg", None, "dermoscopic"),
        ("dermnet/train/a.jpg", None, "clinical"),
    ],
)
def test_open_rows_keep_their_reference_and_tell_the_modality(tmp_path, image, morphology, modality):
    block = f"<morph>{json.dumps(morphology)}</morph>\n" if morphology else ""
    answer = f"<reasoning>Scaly.</reasoning>\n{block}<final_diagnosis>Psoriasis</final_diagnosis>"
    (item,) = read(
        "t3.2", write(tmp_path / "a.jsonl", [row(image=image, question="<image>\nWhy?", answer=answer)])
    ).items
    assert (item.reference, item.facts.label, item.facts.modality) == (answer, "Psoriasis", modality)
    assert (item.facts.morphology is None) == (morphology is None)
    key = DERM7PT_KEY if modality == "dermoscopic" else SKINCON_KEY
    assert prompt(item) == "<image>\nWhy?"
    assert key in prompt(item, instruct=True)


def test_walks_come_from_the_file_of_four_way_diagnosis_and_a_tree(tmp_path):
    rows = [row("1", answer="B) Melanoma"), row("2", answer="C) Nevus"), row("3", answer="A) Cyst")]
    found = read("t2.3", write(tmp_path / "a.json", rows), taxonomy=TREE)
    assert [item.id for item in found.items] == ["t2.3/1", "t2.3/2"]
    assert found.left_out == {"label_not_in_tree": 1}
    first, second = found.items
    assert [set(question.options) for question in first.questions] == [
        {"Neoplasms", "Inflammation"},
        {"Malignant", "Benign"},
        {"Melanoma", "Merkel Cell Carcinoma"},
    ]
    assert [q.answer for q in first.questions] == ["Neoplasms", "Malignant", "Melanoma"]
    assert len(second.questions) == 2  # its last category has a single leaf


@pytest.mark.parametrize(
    "table",
    [
        "DDI_ID,DDI_file,skin_tone\n1,000001.png,56\n2,000002.png,\n",
        "relative_path,fitzpatrick_skin_type\nddi/images/000001.PNG,56\n",
    ],
)
def test_skin_tones_are_found_by_the_name_of_the_image(tmp_path, table):
    (tmp_path / "ddi.csv").write_text(table)
    tones = read_skin_tones(tmp_path / "ddi.csv")
    rows = [row("1"), row("2", "ddi/images/000002.png")]
    found = read("t4", write(tmp_path / "a.jsonl", rows, lines=True), skin_tones=tones)
    assert [item.facts.skin_tone for item in found.items] == ["56", None]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column DDI_file"):
        read_skin_tones(tmp_path / "other.csv")


def test_a_whole_release_is_read_from_its_folder(tmp_path):
    assert FILES.keys() == TASKS.keys()
    assert sum(task.items for task in TASKS.values()) == 33_999
    for files in FILES.values():
        for file in files:
            write(tmp_path / file.names[-1], [row("1"), row("1")], lines=file.names[-1].endswith("l"))
    found = read_release(tmp_path, taxonomy=TREE)
    ids = [item.id for items in found.values() for item in items.items]
    assert len(ids) == len(set(ids)) == 2 * 14
    assert [item.facts.subset for item in found["t2.4"].items[::2]] == ["derm1m_edu", "ddi", "derm7pt", "snu134"]
    assert list(read_release(tmp_path, tasks=["t4"])) == ["t4"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no benchmark file"):
        read_release(tmp_path / "empty")


def test_tasks_and_data_sets_without_a_file_are_named(tmp_path):
    four_way, ddi = FILES["t2.1"][0].names[0], FILES["t2.4"][1].names[0]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    for name in (four_way, ddi):
        write(tmp_path / name, [row("1", image="a.jpg")])
    asked = ItemSettings(release=tmp_path, images=tmp_path)
    found = load_items(asked, ["t1.3", "t2.1", "t2.4"], TREE)
    assert list(found.items) == ["t2.1", "t2.4"]
    assert found.missing == {
        "t1.3": f"no file {FILES['t1.3'][0].names[0]}",
        **{f"t2.4, {FILES['t2.4'][place].names[0]}": "no such file" for place in (0, 2, 3)},
    }
    said = comparability(released=True, limited=False, compat=False, missing=tuple(found.missing))
    assert "Not asked: t1.3; t2.4, task2/2_1_mcq/derm1m_edu" in said
    assert "means are over what was asked" in said
