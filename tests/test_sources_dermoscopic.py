"""Sources with dermoscopic images, and the two general ones, over miniatures of the layouts they are published in."""

import csv
import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dermo_ray.config.sources import SourceConfig
from dermo_ray.data.samples import Reject, Sample
from dermo_ray.data.sources import open_source
from dermo_ray.data.sources.derm12345 import LABELS as DERM12345_LABELS
from dermo_ray.errors import UserError
from dermo_ray.morphology import DERM7PT_FIELDS
from dermo_ray.taxonomy import Taxonomy

DATA = Path(os.environ.get("DERMORAY_DATA", Path(__file__).parents[2] / "shared" / "data"))


def write_table(path: Path, rows: Sequence[Mapping[str, str]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def draw(root: Path, *files: str) -> None:
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 32), (200, 150, number)).save(root / file)


def read(name: str, root: Path, **options: Any) -> dict[str, Sample | str]:
    """{id: sample, or the reason to refuse it} in the order listed; what workers get went through JSON."""
    source = open_source(SourceConfig.model_validate({"name": name, "root": root, **options}), seed=0)
    found: dict[str, Sample | str] = {}
    for entry in source.entries():
        assert json.loads(json.dumps(entry.facts)) == entry.facts
        assert entry.id not in found
        try:
            sample = source.sample(entry)
        except Reject as verdict:
            found[entry.id] = verdict.reason
        else:
            assert sample.image.is_file()
            assert sample.source == options.get("alias", name)
            found[entry.id] = sample
    return found


def of(samples: Iterable[Sample | str], attribute: str) -> list[Any]:
    """An attribute of each sample; a refusal stands for itself."""
    return [sample if isinstance(sample, str) else getattr(sample, attribute) for sample in samples]


# ISIC Archive


ISIC = {
    "isic_id": "ISIC_0000000",
    "attribution": "Anonymous",
    "copyright_license": "CC-0",
    "diagnosis_1": "Benign",
    "diagnosis_2": "Benign melanocytic proliferations",
    "diagnosis_3": "Nevus",
    "diagnosis_4": "",
    "diagnosis_5": "",
    "fitzpatrick_skin_type": "",
    "image_type": "dermoscopic",
    "lesion_id": "",
    "patient_id": "",
}


def isic_export(root: Path, *changes: Mapping[str, str], table: str = "metadata.csv") -> None:
    rows = [ISIC | {"isic_id": f"ISIC_{number:07d}"} | change for number, change in enumerate(changes)]
    write_table(root / table, rows)
    draw(root, *(f"{row['isic_id']}.jpg" for row in rows if row["isic_id"]))


def test_an_isic_export_gives_the_finest_diagnosis_modality_and_skin_type(tmp_path):
    isic_export(
        tmp_path,
        {"fitzpatrick_skin_type": "II"},
        {"diagnosis_4": "Blue nevus", "diagnosis_5": "Blue nevus, Cellular", "image_type": "clinical: close-up"},
        {
            "diagnosis_3": "Melanoma Invasive",
            "diagnosis_4": "Melanoma Invasive, Nodular",
            "image_type": "TBP tile: close-up",
        },
        {"diagnosis_3": ""},
        {"diagnosis_1": "", "diagnosis_2": "", "diagnosis_3": ""},
        {"image_type": "RCM: mosaic"},
        {"image_type": ""},
        {"isic_id": ""},
    )
    samples = read("isic", tmp_path)
    assert next(iter(samples)) == "isic_ISIC_0000000"
    assert list(samples)[-1] == "isic_row_8"
    refused = ["unknown_modality", "unknown_modality", "malformed_row"]
    labels = ["Nevus", "Blue nevus, Cellular", "Melanoma Invasive, Nodular", "Benign melanocytic proliferations", None]
    assert of(samples.values(), "raw_label") == [*labels, *refused]
    modalities = ["dermoscopic", "clinical", "clinical", "dermoscopic", "dermoscopic"]
    assert of(samples.values(), "modality") == [*modalities, *refused]
    assert of(samples.values(), "skin_tone")[:2] == [2, None]


def test_isic_images_group_by_patient_and_else_by_lesion(tmp_path):
    isic_export(
        tmp_path,
        {"patient_id": "IP_1", "lesion_id": "IL_1"},
        {"patient_id": "IP_1"},
        {"lesion_id": "IL_1"},
        {"lesion_id": "IL_2"},
        {},
    )
    groups = of(read("isic", tmp_path, alias="archive").values(), "group")
    assert groups == ["archive/IP_1", "archive/IP_1", "archive/IP_1", "archive/IL_2", None]


def test_an_older_isic_export_has_one_diagnosis_and_maybe_no_lesions(tmp_path):
    write_table(tmp_path / "metadata.csv", [{"isic_id": "ISIC_1", "diagnosis": "nevus", "image_type": "dermoscopic"}])
    draw(tmp_path, "images/ISIC_1.jpg")
    assert of(read("isic", tmp_path).values(), "raw_label") == ["nevus"]


def test_an_isic_collection_is_read_by_the_name_the_site_gives_its_table(tmp_path):
    isic_export(tmp_path, {}, table="bcn20000_metadata_2025-05-22.csv")
    assert list(read("isic", tmp_path)) == ["isic_ISIC_0000000"]
    isic_export(tmp_path, {}, table="hiba_metadata_2025-05-22.csv")
    with pytest.raises(UserError, match="2 metadata tables; name the one to read"):
        read("isic", tmp_path)


def test_a_folder_that_is_no_isic_export_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no metadata\.csv"):
        read("isic", tmp_path)
    write_table(tmp_path / "metadata.csv", [{"isic_id": "ISIC_1", "sex": "male"}])
    with pytest.raises(UserError, match="no column diagnosis_1"):
        read("isic", tmp_path)
    write_table(tmp_path / "metadata.csv", [{"isic_id": "ISIC_1", "diagnosis": "nevus"}])
    with pytest.raises(UserError, match="holds no images"):
        read("isic", tmp_path)


@pytest.mark.skipif(not (DATA / "isic").is_dir(), reason="the real ISIC images are not here")
def test_real_isic_images_are_found_by_their_ids(tmp_path):
    isic_export(tmp_path, *({} for _ in range(5)))
    for file in tmp_path.glob("*.jpg"):
        file.unlink()
    (tmp_path / "images").symlink_to(DATA / "isic")
    assert [sample.image.stat().st_size > 30_000 for sample in read("isic", tmp_path).values()] == [True] * 5


# BCN20000


def bcn(root: Path, train_folder: str, train: str, test: str) -> None:
    columns = ("bcn_filename", "age_approx", "anatom_site_general", "diagnosis", "lesion_id", "capture_date", "sex")
    values = ("55.0", "anterior torso", "MEL", "BCN_0003884", "2012-05-16", "male")
    row = dict(zip(columns, ("BCN_0000000001.jpg", *values), strict=True)) | {"split": "train"}
    write_table(root / train, [row, row | {"bcn_filename": "BCN_0000000003.jpg", "diagnosis": "NV", "lesion_id": ""}])
    hidden = {name: value for name, value in row.items() if name not in ("diagnosis", "lesion_id")}
    write_table(root / test, [hidden | {"bcn_filename": f"BCN_{n:010d}.jpg", "split": "test"} for n in (2, 4)])
    draw(root, *(f"{train_folder}/BCN_{n:010d}.jpg" for n in (1, 3)), "bcn_20k_test/BCN_0000000002.jpg")


@pytest.mark.parametrize(
    ("train_folder", "train", "test"),
    [
        ("bcn_20k_train", "bcn_20k_train.csv", "bcn_20k_test.csv"),
        ("BCN_20k_train/bcn_20k_train", "BCN_20k_train.csv", "BCN_20k_test.csv"),
    ],
)
def test_bcn20000_groups_by_lesion_and_lists_its_test_images_without_labels(tmp_path, train_folder, train, test):
    bcn(tmp_path, train_folder, train, test)
    samples = read("bcn20000", tmp_path)
    assert list(samples) == [f"bcn20000_BCN_{n:010d}" for n in (1, 3, 2, 4)]
    assert of(samples.values(), "raw_label") == ["MEL", "NV", None, "missing_file"]
    assert of(samples.values(), "group") == ["bcn20000/BCN_0003884", None, None, "missing_file"]
    assert samples["bcn20000_BCN_0000000001"].modality == "dermoscopic"


def test_a_folder_without_bcn20000_tables_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"neither bcn_20k_train\.csv nor bcn_20k_test\.csv"):
        read("bcn20000", tmp_path)


# DERM12345


DERM12345 = {
    "patient_id": "P1",
    "image_id": "DERM_1",
    "label": "acb",
    "super_class": "melanocytic",
    "malignancy": "benign",
    "main_class_1": "banal",
    "main_class_2": "compound",
    "sub_class": "acral",
}


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tab", "\t")])
def test_derm12345_spells_codes_out_and_groups_by_patient(tmp_path, suffix, delimiter):
    train = [DERM12345, DERM12345 | {"image_id": "DERM_2", "label": "mel"}, DERM12345 | {"image_id": ""}]
    test = [DERM12345 | {"patient_id": "P2", "image_id": "DERM_3", "label": "xyz"}]
    write_table(tmp_path / f"derm12345_metadata_train.{suffix}", train, delimiter)
    write_table(tmp_path / f"derm12345_metadata_test.{suffix}", test, delimiter)
    parts = ("derm12345_train_part_1/acb/DERM_1", "derm12345_train_part_2/mel/DERM_2", "derm12345_test/xyz/DERM_3")
    draw(tmp_path, *(f"{part}.jpg" for part in parts))
    samples = read("derm12345", tmp_path)
    assert list(samples) == ["derm12345_DERM_1", "derm12345_DERM_2", "derm12345_row_3", "derm12345_DERM_3"]
    assert of(samples.values(), "raw_label") == ["Acral Compound Nevus", "Melanoma", "malformed_row", "xyz"]
    assert of(samples.values(), "group") == ["derm12345/P1", "derm12345/P1", "malformed_row", "derm12345/P2"]


def test_a_folder_without_derm12345_tables_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no derm12345_metadata_train\.csv"):
        read("derm12345", tmp_path)


# Derm7pt


CHECKLIST = {
    "pigment_network": "atypical",
    "streaks": "irregular",
    "pigmentation": "localized irregular",
    "regression_structures": "blue areas",
    "dots_and_globules": "irregular",
    "blue_whitish_veil": "present",
    "vascular_structures": "linear irregular",
}


def derm7pt_row(number: int, **changes: str) -> dict[str, str]:
    return {
        "case_num": str(number),
        "diagnosis": "melanoma (less than 0.76 mm)",
        "seven_point_score": "7",
        **CHECKLIST,
        "level_of_diagnostic_difficulty": "medium",
        "clinic": f"NEL/NEL{number:03d}.JPG",
        "derm": f"NEL/Nel{number + 500:03d}.jpg",
        "case_id": "",
        "notes": "",
    } | changes


def test_a_derm7pt_case_is_a_clinical_and_a_dermoscopic_image_of_one_group(tmp_path):
    write_table(tmp_path / "meta" / "meta.csv", [derm7pt_row(1)])
    draw(tmp_path / "images", "Nel/NEL001.jpg", "NEL/NEL501.JPG")  # the archive's letter case is another
    samples = read("derm7pt", tmp_path)
    assert list(samples) == ["derm7pt_1_clinic", "derm7pt_1_derm"]
    assert of(samples.values(), "modality") == ["clinical", "dermoscopic"]
    assert of(samples.values(), "group") == ["derm7pt/1", "derm7pt/1"]
    assert samples["derm7pt_1_clinic"].morphology is None
    morphology = samples["derm7pt_1_derm"].morphology
    assert morphology.closed
    assert morphology.fields == {name: CHECKLIST[name.lower().replace(" ", "_")] for name in DERM7PT_FIELDS}
    assert samples["derm7pt_1_derm"].annotation == morphology


def test_every_published_value_of_the_checklist_is_in_the_vocabulary(tmp_path):
    rows = [
        derm7pt_row(10 * position + choice, **{name.lower().replace(" ", "_"): value})
        for position, (name, values) in enumerate(DERM7PT_FIELDS.items())
        for choice, value in enumerate(values)
    ]
    write_table(tmp_path / "meta" / "meta.csv", rows)
    draw(tmp_path / "images", *(row[view] for row in rows for view in ("clinic", "derm")))
    samples = [sample for sample in read("derm7pt", tmp_path).values() if sample.modality == "dermoscopic"]
    stated = {(name, value) for sample in samples for name, value in sample.morphology.fields.items()}
    assert stated == {(name, value) for name, values in DERM7PT_FIELDS.items() for value in values}


def test_a_derm7pt_case_is_refused_by_image(tmp_path):
    no_criteria = dict.fromkeys(CHECKLIST, "")
    rows = [
        derm7pt_row(1, streaks=""),
        derm7pt_row(2, pigmentation="purple"),
        derm7pt_row(3, **no_criteria),
        derm7pt_row(4, clinic=""),
        derm7pt_row(5, derm="NEL/gone.jpg"),
    ]
    write_table(tmp_path / "meta" / "meta.csv", rows)
    draw(tmp_path / "images", *(derm7pt_row(n)[view] for n in range(1, 5) for view in ("clinic", "derm")))
    draw(tmp_path / "images", derm7pt_row(5)["clinic"])
    samples = read("derm7pt", tmp_path)
    refused = {id: sample for id, sample in samples.items() if isinstance(sample, str)}
    assert refused == {
        "derm7pt_2_derm": "malformed_morphology",
        "derm7pt_row_4": "malformed_row",
        "derm7pt_5_derm": "missing_file",
    }
    for number in (1, 3):  # a checklist that is not filled in costs the morphology alone
        assert samples[f"derm7pt_{number}_derm"].morphology is None
        assert samples[f"derm7pt_{number}_derm"].raw_label == samples["derm7pt_1_clinic"].raw_label


def test_a_folder_without_the_derm7pt_table_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"meta holds no meta\.csv"):
        read("derm7pt", tmp_path)


# MIDAS


MIDAS = {
    "": "0",
    "midas_record_id": "17",
    "midas_file_name": "s-prd-1.jpg",
    "midas_iscontrol": "no",
    "midas_distance": "dscope",
    "midas_location": "l upper back",
    "midas_path": "malignant- bcc",
    "midas_pathreport": "Basal cell carcinoma,\nnodular type",
    "midas_gender": "male",
    "midas_age": "71",
    "midas_fitzpatrick": "ii fair skin, blue eyes",
    "midas_melanoma": "no",
    "midas_ethnicity": "",
    "midas_race": "",
    "clinical_impression_1": "7-malignant-bcc",
    "clinical_impression_2": "",
    "clinical_impression_3": "",
    "length__mm_": "4",
    "width__mm_": "3",
}


def write_workbook(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """As Excel writes it: shared texts, numbers as numbers, empty cells left out."""
    texts: list[str] = []

    def cell(column: int, row: int, value: str) -> str:
        place = f'r="{chr(ord("A") + column)}{row}"'
        if value.isdigit():
            return f"<c {place}><v>{value}</v></c>"
        texts.append(value)
        return f'<c {place} t="s"><v>{len(texts) - 1}</v></c>'

    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    lines = (
        f'<row r="{number}">{"".join(cell(place, number, value) for place, value in enumerate(line) if value)}</row>'
        for number, line in enumerate(table, start=1)
    )
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    sheet = f"<worksheet {space}><sheetData>{''.join(lines)}</sheetData></worksheet>"
    shared = "".join(f"<si><t>{text}</t></si>" for text in texts)
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("xl/worksheets/sheet1.xml", sheet)
        book.writestr("xl/sharedStrings.xml", f"<sst {space}>{shared}</sst>")


@pytest.mark.parametrize(
    ("table", "write"), [("release_midas.csv", write_table), ("release_midas.xlsx", write_workbook)]
)
def test_midas_reads_pathology_distance_and_skin_type(tmp_path, table, write):
    changes: list[dict[str, str]] = [
        {},
        {"midas_file_name": "S-PRD-2.jpeg", "midas_distance": "6in", "midas_path": "benign-melanocytic nevus"},
        {"midas_distance": "1ft", "midas_path": "", "midas_iscontrol": "yes"},
        {"midas_distance": "n/a - virtual", "midas_path": "", "midas_fitzpatrick": ""},
        {"midas_path": "benign-other"},
        {"midas_distance": ""},
        {"midas_file_name": "elsewhere.jpg"},
    ]
    rows = [MIDAS | {"midas_file_name": f"s-prd-{n}.jpg"} | change for n, change in enumerate(changes, start=1)]
    rows[2]["clinical_impression_1"] = "1-benign-melanocytic nevus"
    write(tmp_path / table, rows)
    draw(tmp_path, *(f"images/s-prd-{number}.jpg" for number in range(1, 7)))
    samples = read("midas", tmp_path)
    assert list(samples)[:2] == ["midas_s-prd-1", "midas_S-PRD-2"]
    refused = ["unknown_modality", "missing_file"]
    labels = ["bcc", "melanocytic nevus", "melanocytic nevus", None, "benign-other"]
    assert of(samples.values(), "raw_label") == [*labels, *refused]
    modalities = ["dermoscopic", "clinical", "clinical", "clinical", "dermoscopic"]
    assert of(samples.values(), "modality") == [*modalities, *refused]
    assert of(samples.values(), "skin_tone") == [2, 2, 2, None, 2, *refused]
    assert {sample.group for sample in samples.values() if isinstance(sample, Sample)} == {"midas/17"}


def test_a_midas_table_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no release_midas\.csv"):
        read("midas", tmp_path)
    (tmp_path / "release_midas.xlsx").write_bytes(b"PK, but no archive")
    with pytest.raises(UserError, match="can't be read as an Excel workbook"):
        read("midas", tmp_path)
    write_workbook(tmp_path / "release_midas.xlsx", [{"midas_record_id": "1"}])
    with pytest.raises(UserError, match="no column midas_file_name"):
        read("midas", tmp_path)


# PAD-UFES-20


@pytest.mark.parametrize("folder", ["images/imgs_part_{}", "imgs_part_{0}/imgs_part_{0}"])
def test_pad_ufes_20_groups_by_patient_and_reads_the_skin_type(tmp_path, folder):
    row = {"patient_id": "PAT_1516", "lesion_id": "1765", "fitspatrick": "3.0", "diagnostic": "NEV", "biopsed": "True"}
    rows = [
        row | {"img_id": "PAT_1516_1765_530.png"},
        row | {"img_id": "PAT_46_881_939.png", "patient_id": "PAT_46", "fitspatrick": "", "diagnostic": "BCC"},
        row | {"img_id": "PAT_46_881_14.png"},
    ]
    write_table(tmp_path / "metadata.csv", rows)
    draw(tmp_path, f"{folder.format(1)}/PAT_1516_1765_530.png", f"{folder.format(3)}/PAT_46_881_939.png")
    samples = read("pad_ufes_20", tmp_path)
    ids = ["PAT_1516_1765_530", "PAT_46_881_939", "PAT_46_881_14"]
    assert list(samples) == [f"pad_ufes_20_{id}" for id in ids]
    assert of(samples.values(), "group") == ["pad_ufes_20/PAT_1516", "pad_ufes_20/PAT_46", "missing_file"]
    assert of(samples.values(), "skin_tone") == [3, None, "missing_file"]
    assert of(samples.values(), "raw_label") == ["NEV", "BCC", "missing_file"]
    assert samples["pad_ufes_20_PAT_46_881_939"].modality == "clinical"


def test_a_folder_that_is_not_pad_ufes_20_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no metadata\.csv"):
        read("pad_ufes_20", tmp_path)
    write_table(tmp_path / "metadata.csv", [{"isic_id": "ISIC_1"}])
    with pytest.raises(UserError, match="no column patient_id"):
        read("pad_ufes_20", tmp_path)


# any folder


def test_a_folder_of_classes_labels_by_the_folder_below_the_root(tmp_path):
    draw(tmp_path, "Plaque_Psoriasis/1.jpg", "acne/deep/er/2.png", "stray.jpg", "acne/2.png")
    samples = read("folder", tmp_path, modality="clinical", alias="ours")
    files = ["Plaque_Psoriasis/1.jpg", "acne/2.png", "acne/deep/er/2.png", "stray.jpg"]
    assert list(samples) == [f"ours_{file}" for file in files]
    assert of(samples.values(), "raw_label") == ["Plaque_Psoriasis", "acne", "acne", None]
    assert of(samples.values(), "group") == [None] * 4
    assert of(samples.values(), "modality") == ["clinical"] * 4


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no images: expected <class>"):
        read("folder", tmp_path, modality="clinical")


# any table


COLUMNS = {
    "image": "name",
    "image_pattern": "pictures/{}.jpg",
    "label": "dx",
    "group": "patient",
    "modality": "how",
    "skin_tone": "tone",
    "skincon": "seen",
    "derm7pt": {name: name for name in CHECKLIST},
}
RECORDS: list[dict[str, Any]] = [
    {"name": "a", "dx": "nevus", "patient": 7, "how": "Dermatoscope", "tone": 3, "seen": None, **CHECKLIST},
    {"name": "b", "dx": None, "patient": None, "how": "phone", "tone": None, "seen": ["Papule", "Scale"]},
    {"name": "c", "dx": "acne", "patient": 8, "how": "phone", "tone": 9, "seen": []},
    {"name": "d", "dx": "acne", "patient": 8, "how": "phone", "tone": None, "seen": ["Nonsense"]},
    {"name": "e", "dx": "acne", "patient": 8, "how": None, "tone": None, "seen": None},
    {"name": None, "dx": "acne", "patient": 8, "how": "phone", "tone": None, "seen": None},
    {"name": "gone\0", "dx": "acne", "patient": 8, "how": "phone", "tone": None, "seen": None},
]


def records_file(path: Path) -> Path:
    whole = [dict.fromkeys(CHECKLIST) | record for record in RECORDS]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(whole), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    else:
        text = [
            {name: ";".join(value) if isinstance(value, list) else str(value or "") for name, value in record.items()}
            for record in whole
        ]
        order = list(RECORDS[0])
        rows = [{name: row[name] for name in order} for row in text]
        write_table(path, rows, "\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl"])
def test_a_table_is_read_by_its_column_map(tmp_path, suffix):
    draw(tmp_path, *(f"pictures/{name}.jpg" for name in "abcde"))
    file = records_file(tmp_path / f"records.{suffix}")
    samples = read("table", tmp_path, file=file, columns=COLUMNS, alias="ours")
    refused = ["malformed_morphology", "unknown_modality", "malformed_row", "missing_file"]
    assert list(samples)[:6] == [f"ours_{name}" for name in ("a", "b", "c", "d", "e", "row_6")]
    assert of(samples.values(), "raw_label") == ["nevus", None, "acne", *refused]
    assert of(samples.values(), "group") == ["ours/7", None, "ours/8", *refused]
    assert of(samples.values(), "modality") == ["dermoscopic", "clinical", "clinical", *refused]
    assert of(samples.values(), "skin_tone") == [3, None, None, *refused]
    assert samples["ours_a"].morphology.fields["Vascular Structures"] == "linear irregular"
    assert samples["ours_b"].morphology.features == {"Papule", "Scale"}
    # a list says that nothing was seen, an empty cell of a text file that nobody looked
    nothing_seen = samples["ours_c"].morphology
    assert nothing_seen is None if suffix in ("csv", "tsv") else nothing_seen.features == frozenset()


def test_a_table_may_give_paths_and_one_modality_for_all(tmp_path):
    draw(tmp_path, "x/1.jpg")
    write_table(tmp_path / "t.csv", [{"file": "x/1.jpg"}, {"file": "x/2.jpg"}])
    options = {"file": tmp_path / "t.csv", "columns": {"image": "file"}, "modality": "dermoscopic"}
    samples = read("table", tmp_path, **options)
    assert list(samples) == ["table_x/1.jpg", "table_x/2.jpg"]
    assert of(samples.values(), "modality") == ["dermoscopic", "missing_file"]


def test_damaged_lines_of_a_jsonl_table_are_rows_that_are_refused(tmp_path):
    draw(tmp_path, "1.jpg")
    lines = ['{"file": "1.jpg"}', "{", "[" * 100_000, "7", '{"file": {"a": 1}}', '{"other": 1}', '\ufffd"']
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    options = {"file": tmp_path / "t.jsonl", "columns": {"image": "file"}, "modality": "clinical"}
    samples = read("table", tmp_path, **options)
    assert of(samples.values(), "modality") == [
        "clinical",
        *["malformed_row"] * 3,
        "missing_file",
        *["malformed_row"] * 2,
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "no such table"),
        ("t.xml", b"<x/>", "of no kind that is read here"),
        ("t.csv", b"name\na\n", "has no column dx"),
        ("t.csv", b"name,dx\n", "has no rows"),
        ("t.jsonl", b'{"name": "a"}\n', "has no column dx"),
        ("t.parquet", b"PAR0", "can't be read as Parquet"),
    ],
)
def test_a_table_that_does_not_fit_its_map_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    options = {"file": tmp_path / name, "columns": {"image": "name", "label": "dx"}, "modality": "clinical"}
    with pytest.raises(UserError, match=message):
        read("table", tmp_path, **options)


# labels


PUBLISHED_LABELS = {
    "bcn20000": ("MEL", "NV", "BCC", "BKL", "AK", "SCC", "DF", "VASC"),
    "derm12345": tuple(DERM12345_LABELS.values()),
    "derm7pt": (
        "basal cell carcinoma",
        "blue nevus",
        "clark nevus",
        "combined nevus",
        "congenital nevus",
        "dermal nevus",
        "dermatofibroma",
        "lentigo",
        "melanoma",
        "melanoma (in situ)",
        "melanoma (less than 0.76 mm)",
        "melanoma (0.76 to 1.5 mm)",
        "melanoma (more than 1.5 mm)",
        "melanoma metastasis",
        "melanosis",
        "recurrent nevus",
        "reed or spitz nevus",
        "seborrheic keratosis",
        "vascular lesion",
    ),
    "midas": (
        "ak",
        "bcc",
        "dermatofibroma",
        "fibrous papule",
        "hemangioma",
        "melanocytic nevus",
        "melanoma",
        "scc",
        "sccis",
        "seborrheic keratosis",
    ),
    "pad_ufes_20": ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK"),
    "isic": (
        "Nevus",
        "Blue nevus",
        "Nevus, Spitz",
        "Nevus, NOS, Compound",
        "Melanoma Invasive",
        "Melanoma in situ",
        "Melanoma metastasis",
        "Melanoma, NOS",
        "Basal cell carcinoma",
        "Squamous cell carcinoma in situ",
        "Squamous cell carcinoma, Invasive",
        "Squamous cell carcinoma, NOS",
        "Solar or actinic keratosis",
        "Seborrheic keratosis",
        "Pigmented benign keratosis",
        "Lichen planus like keratosis",
        "Solar lentigo",
        "Lentigo NOS",
        "Dermatofibroma",
        "Hemangioma",
        "Pyogenic granuloma",
        "Benign soft tissue proliferations - Vascular",
        "Melanoma in situ, Lentigo maligna type",
        "Basal cell carcinoma, Superficial",
        "Blue nevus, Cellular",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED_LABELS)
def test_the_default_taxonomy_knows_the_published_labels(name):
    taxonomy = Taxonomy.load()
    assert [label for label in PUBLISHED_LABELS[name] if taxonomy.canonical(label) is None] == []
