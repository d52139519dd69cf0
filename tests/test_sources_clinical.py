"""Sources of clinical photographs: each reads its published layout, miniatures of which are drawn here."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from PIL import Image

from dermo_ray.config.sources import SourceConfig
from dermo_ray.data.samples import Entry, Reject, Sample
from dermo_ray.data.sources import Source, open_source
from dermo_ray.errors import UserError
from dermo_ray.morphology import SKINCON_FEATURES

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("DERMORAY_DATA", REPOSITORY.parent / "shared" / "data"))

MD5 = ("5e82a45bc5d78bd24ae9202d194423f8", "fa2911a9b13b6f8af79cb700937cc14f", "d2bac3c9e4499032ca8e9b07c7d3bc40")


def opened(name: str, root: Path, **options) -> Source:
    return open_source(SourceConfig(name=name, root=root, **options), seed=0)


def draw(*files: Path) -> None:
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 80, 60)).save(file)


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def read(source: Source) -> dict[str, Sample | str]:
    """{entry id: its sample, or the reason why it was refused}."""
    found: dict[str, Sample | str] = {}
    for entry in source.entries():
        try:
            found[entry.id] = source.sample(Entry(entry.id, dict(entry.facts)))
        except Reject as verdict:
            found[entry.id] = verdict.reason
    assert len(found) == len(source.entries())
    return found


def labels(samples: Mapping[str, Sample | str]) -> dict[str, str | None]:
    return {id: sample if isinstance(sample, str) else sample.raw_label for id, sample in samples.items()}


def fitzpatrick17k(root: Path, images: Sequence[str] = MD5) -> None:
    header = "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,three_partition_label,qc,url,"
    rows = [
        (MD5[0], 3, 3, "drug induced pigmentary changes", "inflammatory", "non-neoplastic", "", "http", "a.jpg"),
        (MD5[1], 6, 5, "photodermatoses", "inflammatory", "non-neoplastic", "1 Diagnostic", "http", "b.jpg"),
        (MD5[2], -1, 1, "melanoma", "malignant melanoma", "malignant", "3 Wrongly labelled", "http", "c.jpg"),
        ("", 1, 1, "psoriasis", "inflammatory", "non-neoplastic", "", "", ""),
    ]
    write_table(root / "fitzpatrick17k.csv", [*header.split(",")[:-1], "url_alphanum"], rows)
    draw(*(root / "data" / "finalfitz17k" / f"{image}.jpg" for image in images))


def ddi(root: Path) -> None:
    rows = [
        (0, 1, "000001.png", 56, True, "melanoma-in-situ"),
        (1, 2, "000002.png", 12, False, "acrochordon"),
        (2, 3, "000003.png", 34, True, "mycosis-fungoides"),
        (3, 4, "", 34, False, "wart"),
    ]
    write_table(root / "ddi_metadata.csv", ["", "DDI_ID", "DDI_file", "skin_tone", "malignant", "disease"], rows)
    draw(root / "000001.png", root / "000002.png")


def skincon(path: Path, rows: Mapping[str, Sequence[str]], left_out: Sequence[str] = ()) -> Path:
    """SkinCon's table: {ImageID: features present}, and the images not to be considered."""
    features = sorted(SKINCON_FEATURES, key=len)  # the published order is not ours either
    write_table(
        path,
        ["", "ImageID", *features, "Do not consider this image"],
        [
            (number, image, *(int(name in present) for name in features), int(image in left_out))
            for number, (image, present) in enumerate(rows.items())
        ],
    )
    return path


def scin(root: Path) -> None:
    header = ["case_id", "source", "release", "year", "fitzpatrick_skin_type"]
    for number in (1, 2, 3):
        header += [f"image_{number}_path", f"image_{number}_shot_type"]
    facts = ("SCIN", "1.0.0", 2023)
    write_table(
        root / "scin_cases.csv",
        header,
        [
            (
                "-100",
                *facts,
                "FST2",
                "dataset/images/-1.png",
                "CLOSE_UP",
                "dataset/images/-2.png",
                "AT_DISTANCE",
                "",
                "",
            ),
            (
                "200",
                *facts,
                "FST4",
                "dataset/images/-3.png",
                "CLOSE_UP",
                "",
                "",
                "dataset/images/-9.png",
                "AT_AN_ANGLE",
            ),
            ("300", *facts, "NONE_SELECTED", "dataset/images/-4.png", "CLOSE_UP", "", "", "", ""),
            ("400", *facts, "", "dataset/images/-5.png", "CLOSE_UP", "", "", "", ""),
            ("500", *facts, "FST1", "", "", "", "", "", ""),
            ("", *facts, "FST1", "dataset/images/-1.png", "CLOSE_UP", "", "", "", ""),
        ],
    )
    types = [f"dermatologist_fitzpatrick_skin_type_label_{number}" for number in (1, 2, 3)]
    write_table(
        root / "scin_labels.csv",
        ["case_id", *types, "weighted_skin_condition_label"],
        [
            ("-100", "FST3", "FST6", "FST5", "{'Acne': 0.2, \"Kaposi's sarcoma of skin\": 0.5, 'Eczema': 0.3}"),
            ("200", "", "", "", "{'Urticaria': 0.5, 'Insect Bite': 0.5}"),
            ("300", "", "", "", "{}"),
            ("400", "FST1", "FST2", "", "{'Eczema': 0.6"),
            ("500", "", "", "", "{'Eczema': 1.0}"),
        ],
    )
    draw(*(root / "images" / f"-{number}.png" for number in range(1, 6)))


def passion(root: Path) -> None:
    write_table(
        root / "label.csv",
        ["subject_id", "country", "age", "sex", "fitzpatrick", "body_loc", "impetig", "conditions_PASSION"],
        [
            ("AA1", "Guinea", 4, "m", 5, "arm", 0, "Eczema"),
            ("AA12", "Malawi", 7, "f", 6.0, "leg", 1, "Scabies"),
            ("BB7", "Tanzania", 9, "f", "", "foot", 0, "Fungal"),
            ("", "Guinea", 2, "m", 4, "arm", 0, "Others"),
        ],
    )
    images = root / "PASSION_collection_2020_2023"
    draw(*(images / name for name in ("AA12_1.jpg", "AA1_1.jpeg", "AA1_2.JPG", "CC3_1.jpg", "unnamed.jpg")))


def class_folders(root: Path) -> None:
    draw(
        root / "train" / "Acne and Rosacea Photos" / "07Acne081101.jpg",
        root / "train" / "Tinea Ringworm Candidiasis and other Fungal Infections" / "tinea-scalp-65.jpg",
        root / "test" / "Acne and Rosacea Photos" / "07Acne081101.jpg",
    )


def sd198(root: Path) -> None:
    draw(root / "images" / "Acne_Vulgaris" / "010345HB.jpg", root / "images" / "Darier-White_Disease" / "020075HB.jpg")
    (root / "images.txt").write_text("1 Acne_Vulgaris/010345HB.jpg\n2 Darier-White_Disease/020075HB.jpg\n")


def pumch(root: Path) -> None:
    draw(root / "images" / "psoriasis" / "clinic" / "1.jpg", root / "images" / "psoriasis" / "other" / "2.jpg")


def daffodil(root: Path) -> None:
    draw(root / "images" / "SJS-TEN" / "1.jpeg", root / "images" / "acne" / "2.jpg", root / "cover.jpg")


MINIATURES = {
    "dermnet": class_folders,
    "fitzpatrick17k": fitzpatrick17k,
    "sd198": sd198,
    "scin": scin,
    "passion": passion,
    "pumch": pumch,
    "daffodil": daffodil,
    "ddi": ddi,
}


def test_dermnet_reads_both_parts_and_the_class_as_it_is_written(tmp_path):
    class_folders(tmp_path)
    samples = read(opened("dermnet", tmp_path))
    assert labels(samples) == {
        "dermnet_train/Acne and Rosacea Photos/07Acne081101.jpg": "Acne and Rosacea Photos",
        "dermnet_train/Tinea Ringworm Candidiasis and other Fungal Infections/tinea-scalp-65.jpg": (
            "Tinea Ringworm Candidiasis and other Fungal Infections"
        ),
        "dermnet_test/Acne and Rosacea Photos/07Acne081101.jpg": "Acne and Rosacea Photos",
    }
    assert all(sample.group is None for sample in samples.values())


def test_dermnet_gives_a_picture_outside_the_class_folders_no_label(tmp_path):
    draw(tmp_path / "train" / "stray.jpg")
    assert labels(read(opened("dermnet", tmp_path))) == {"dermnet_train/stray.jpg": None}


def test_sd198_keeps_the_underscores_of_its_classes(tmp_path):
    sd198(tmp_path)
    assert labels(read(opened("sd198", tmp_path))) == {
        "sd198_images/Acne_Vulgaris/010345HB.jpg": "Acne_Vulgaris",
        "sd198_images/Darier-White_Disease/020075HB.jpg": "Darier-White_Disease",
    }


def test_pumch_reads_the_clinical_photographs_and_refuses_what_lies_elsewhere(tmp_path):
    pumch(tmp_path)
    assert labels(read(opened("pumch", tmp_path))) == {
        "pumch_images/psoriasis/clinic/1.jpg": "psoriasis",
        "pumch_images/psoriasis/other/2.jpg": "unknown_modality",
    }


@pytest.mark.parametrize("above", ["", "images", "Dataset/Skin Disease"])
def test_daffodil_finds_its_five_classes_at_any_depth(tmp_path, above):
    folder = tmp_path / above
    draw(folder / "Nail_psoriasis" / "1.jpg", folder / "SJS-TEN" / "2.jpeg", folder / "Acne" / "3.png")
    assert sorted(labels(read(opened("daffodil", tmp_path))).values()) == ["Acne", "Nail_psoriasis", "SJS-TEN"]


def test_daffodil_gives_a_picture_outside_the_class_folders_no_label(tmp_path):
    daffodil(tmp_path)
    assert labels(read(opened("daffodil", tmp_path)))["daffodil_cover.jpg"] is None


def test_fitzpatrick17k_reads_labels_and_skin_types_and_drops_labels_known_as_wrong(tmp_path):
    fitzpatrick17k(tmp_path)
    samples = read(opened("fitzpatrick17k", tmp_path))
    assert labels(samples) == {
        f"fitzpatrick17k_{MD5[0]}": "drug induced pigmentary changes",
        f"fitzpatrick17k_{MD5[1]}": "photodermatoses",
        f"fitzpatrick17k_{MD5[2]}": None,
        "fitzpatrick17k_row_4": "malformed_row",
    }
    kept = [sample for sample in samples.values() if isinstance(sample, Sample)]
    assert [sample.skin_tone for sample in kept] == [3, 6, None]
    assert all(sample.group is None and sample.morphology is None for sample in kept)
    assert kept[0].image == tmp_path / "data" / "finalfitz17k" / f"{MD5[0]}.jpg"


def test_fitzpatrick17k_counts_the_images_that_could_not_be_fetched(tmp_path):
    fitzpatrick17k(tmp_path, images=())
    assert list(labels(read(opened("fitzpatrick17k", tmp_path))).values()) == [*["missing_file"] * 3, "malformed_row"]


def test_skincon_gives_the_images_it_annotates_their_morphology(tmp_path):
    fitzpatrick17k(tmp_path)
    present = ["Papule", "Brown(Hyperpigmentation)", "Exophytic/Fungating"]
    table = skincon(
        tmp_path / "annotations_fitzpatrick17k.csv",
        {f"{MD5[0]}.jpg": present, f"{MD5[1]}.jpg": [], f"{MD5[2]}.jpg": ["Scale"], "other.jpg": ["Scale"]},
        left_out=[f"{MD5[2]}.jpg"],
    )
    samples = read(opened("fitzpatrick17k", tmp_path, skincon=table))
    found = [samples[f"fitzpatrick17k_{image}"].morphology for image in MD5]
    assert [morphology and sorted(morphology.features) for morphology in found] == [sorted(present), [], None]
    assert found[0].schema == "skincon"
    assert found[0].closed


def test_a_damaged_annotation_costs_its_image_the_morphology_and_no_more(tmp_path):
    fitzpatrick17k(tmp_path)
    table = skincon(tmp_path / "annotations_fitzpatrick17k.csv", {f"{MD5[0]}.jpg": ["Wheal"], f"{MD5[1]}.jpg": []})
    rows = table.read_text().splitlines()
    table.write_text("\n".join([rows[0], rows[1].rsplit(",", 5)[0], rows[2]]))
    samples = read(opened("fitzpatrick17k", tmp_path, skincon=table))
    assert samples[f"fitzpatrick17k_{MD5[0]}"].morphology is None
    assert samples[f"fitzpatrick17k_{MD5[0]}"].raw_label == "drug induced pigmentary changes"
    assert samples[f"fitzpatrick17k_{MD5[1]}"].morphology.features == frozenset()


def test_skincon_says_in_one_line_what_is_wrong_with_its_table(tmp_path):
    fitzpatrick17k(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        opened("fitzpatrick17k", tmp_path, skincon=tmp_path / "absent.csv").entries()
    table = skincon(tmp_path / "annotations_ddi.csv", {"000001.png": ["Nodule"]})
    with pytest.raises(UserError, match="annotates no image of this data set"):
        opened("fitzpatrick17k", tmp_path, skincon=table).entries()
    write_table(table, ["ImageID", "Papule"], [(f"{MD5[0]}.jpg", 1)])
    with pytest.raises(UserError, match="no column Abscess"):
        opened("fitzpatrick17k", tmp_path, skincon=table).entries()


@pytest.mark.parametrize("folder", ["", "images"])
def test_ddi_stores_the_lower_type_of_each_pair_of_skin_tones(tmp_path, folder):
    ddi(tmp_path)
    draw(*(tmp_path / folder / f"00000{number}.png" for number in (1, 2)))
    table = skincon(tmp_path / "annotations_ddi.csv", {"000001.png": ["Plaque"], "000002.png": ["Pedunculated"]})
    samples = read(opened("ddi", tmp_path, skincon=table))
    assert labels(samples) == {
        "ddi_000001": "melanoma-in-situ",
        "ddi_000002": "acrochordon",
        "ddi_000003": "missing_file",
        "ddi_row_4": "malformed_row",
    }
    assert [samples[f"ddi_00000{number}"].skin_tone for number in (1, 2)] == [5, 1]
    assert samples["ddi_000001"].morphology.features == {"Plaque"}
    assert samples["ddi_000001"].group is None


def test_scin_takes_the_heaviest_condition_and_groups_by_case(tmp_path):
    scin(tmp_path)
    samples = read(opened("scin", tmp_path))
    assert labels(samples) == {
        "scin_-100_1": "Kaposi's sarcoma of skin",
        "scin_-100_2": "Kaposi's sarcoma of skin",
        "scin_200_1": "Urticaria",
        "scin_200_3": "missing_file",
        "scin_300_1": "missing_label",
        "scin_400_1": "missing_label",
        "scin_500": "missing_file",
        "scin_row_6": "malformed_row",
    }
    kept = [sample for sample in samples.values() if isinstance(sample, Sample)]
    assert [sample.group for sample in kept] == ["scin/-100", "scin/-100", "scin/200"]
    assert [sample.skin_tone for sample in kept] == [5, 5, 4]  # estimated by dermatologists, else by the contributor
    assert kept[1].image == tmp_path / "images" / "-2.png"


@pytest.mark.parametrize("text", ["[1]", "{'Acne': 'much'}", "{1}", "1 +", "{[]: 1}", "(" * 10_000, "\0", "nan", ""])
def test_scin_refuses_a_differential_that_is_none(tmp_path, text):
    scin(tmp_path)
    rows = list(csv.reader((tmp_path / "scin_labels.csv").open(newline="")))
    write_table(tmp_path / "scin_labels.csv", rows[0], [[*rows[1][:4], text]])
    assert read(opened("scin", tmp_path))["scin_-100_1"] == "missing_label"


def test_passion_finds_the_patient_in_the_file_name(tmp_path):
    passion(tmp_path)
    samples = read(opened("passion", tmp_path))
    folder = "passion_PASSION_collection_2020_2023"
    assert labels(samples) == {
        f"{folder}/AA12_1.jpg": "Scabies",
        f"{folder}/AA1_1.jpeg": "Eczema",
        f"{folder}/AA1_2.JPG": "Eczema",
        f"{folder}/CC3_1.jpg": "not_in_table",
        f"{folder}/unnamed.jpg": "not_in_table",
        "passion_BB7": "missing_file",
        "passion_row_4": "malformed_row",
    }
    kept = [sample for sample in samples.values() if isinstance(sample, Sample)]
    assert [sample.group for sample in kept] == ["passion/AA12", "passion/AA1", "passion/AA1"]
    assert [sample.skin_tone for sample in kept] == [6, 5, 5]


@pytest.mark.parametrize("name", MINIATURES)
def test_every_clinical_source_calls_its_records_by_its_title(tmp_path, name):
    MINIATURES[name](tmp_path)
    source = opened(name, tmp_path, alias="mine")
    for id, sample in read(source).items():
        assert id.startswith("mine_")
        if isinstance(sample, Sample):
            assert (sample.id, sample.source, sample.modality) == (id, "mine", "clinical")
            assert sample.group is None or sample.group.startswith("mine/")
            assert sample.image.is_file()
    assert source.licence


@pytest.mark.parametrize("name", MINIATURES)
def test_every_clinical_source_says_in_one_line_that_a_folder_is_not_its_own(tmp_path, name):
    with pytest.raises(UserError, match="no such folder"):
        opened(name, tmp_path / "absent").entries()
    with pytest.raises(UserError, match=r"holds no .*root is") as failure:
        opened(name, tmp_path).entries()
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("name", "table", "column"),
    [
        ("fitzpatrick17k", "fitzpatrick17k.csv", "md5hash"),
        ("ddi", "ddi_metadata.csv", "skin_tone"),
        ("scin", "scin_cases.csv", "image_2_path"),
        ("scin", "scin_labels.csv", "weighted_skin_condition_label"),
        ("passion", "label.csv", "conditions_PASSION"),
    ],
)
def test_a_table_without_a_column_it_needs_is_named_with_the_column(tmp_path, name, table, column):
    MINIATURES[name](tmp_path)
    text = (tmp_path / table).read_text()
    (tmp_path / table).write_text(text.replace(column, "renamed", 1))
    with pytest.raises(UserError, match=rf"{table} has no column {column}"):
        opened(name, tmp_path).entries()


@pytest.mark.parametrize("name", ["ddi", "scin", "passion"])
def test_a_table_whose_images_are_all_missing_is_refused(tmp_path, name):
    MINIATURES[name](tmp_path)
    for file in [*tmp_path.rglob("*.png"), *tmp_path.rglob("*.j*"), *tmp_path.rglob("*.JPG")]:
        file.unlink()
    with pytest.raises(UserError, match="holds no images"):
        opened(name, tmp_path).entries()


def test_the_settings_for_snu134_make_a_benchmark_of_a_table_of_one_s_own(tmp_path):
    sources = yaml.safe_load((REPOSITORY / "configs" / "prepare" / "dermoinstruct.yaml").read_text())["sources"]
    (settings,) = [source for source in sources if source.get("alias") == "snu134"]
    assert settings["use"] == "benchmark"
    write_table(tmp_path / "meta.csv", ["image_path", "label", "diag"], [("a/1.jpg", 0, "melanoma")])
    draw(tmp_path / "a" / "1.jpg")
    source = open_source(SourceConfig(**settings | {"root": tmp_path, "file": tmp_path / "meta.csv"}), seed=0)
    assert labels(read(source)) == {"snu134_a/1.jpg": "melanoma"}


@pytest.mark.skipif(not (DATA / "fitzpatrick17k").is_dir(), reason="the real fitzpatrick17k.csv is not here")
def test_the_published_table_of_fitzpatrick17k_is_read_whole():
    source = opened("fitzpatrick17k", DATA / "fitzpatrick17k")
    entries = source.entries()
    assert len({entry.id for entry in entries}) == len(entries) == 16_577
    assert len({entry.facts["label"] for entry in entries if "label" in entry.facts}) == 114
    assert sum("skin_tone" not in entry.facts for entry in entries) == 565
    assert sum("label" not in entry.facts for entry in entries) == 17  # found wrong by a dermatologist
