"""The prepare job end to end on Ray Data: phantoms, a damaged miniature of HAM10000, and the real one if present."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from openai_stub import completion, error, serving
from PIL import Image
from ray.exceptions import RayTaskError

from dermo_ray.config import load
from dermo_ray.config.concepts import EncoderSettings
from dermo_ray.config.prepare import ImageSettings, PrepareConfig
from dermo_ray.data.drafts import annotator_of
from dermo_ray.data.sources import open_source
from dermo_ray.errors import UserError
from dermo_ray.models.concepts.encoders import new_model, new_processor
from dermo_ray.morphology import DERM7PT_FIELDS, DERM7PT_KEY, agreement
from dermo_ray.records import GroundTruth, Trajectory
from jobs import prepare

REPOSITORY = Path(__file__).parents[1]
SPLITS = ("train", "val", "test")
THREE_FORMATS = ["morph_reasoning", "morph_description", "diagnosis"]


def settings(**values) -> PrepareConfig:
    return PrepareConfig.model_validate(values)


def read(folder: Path, kind: str) -> dict[str, list[dict]]:
    """The rows of one kind by split, as a user's `datasets.load_dataset` reads them."""
    files = {split: str(folder / kind / split / "*.parquet") for split in SPLITS}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(folder.parent / "cache"))
    return {split: list(loaded[split]) for split in SPLITS}


@pytest.fixture(scope="module")
def phantoms(ray_cluster, tmp_path_factory) -> tuple[PrepareConfig, Path]:
    out = tmp_path_factory.mktemp("phantoms") / "data"
    config = settings(
        source="phantoms",
        count=200,
        out=out,
        prompts="brief",
        formats=THREE_FORMATS,
        noise={"attenuation": 0.5, "random": 0.05},
        images={"encoding": "png"},
        split={"val": 0.15, "test": 0.15},
        duplicates={"distance": None},
    )
    prepare.run(config)
    return config, out


def test_phantoms_give_every_record_of_the_contract(phantoms):
    _, out = phantoms
    manifest = json.loads((out / "manifest.json").read_text())
    conversations, prompts = read(out, "trajectories"), read(out, "rl")
    assert manifest["read"] == manifest["kept"] == {"phantoms": 200}
    assert sum(map(len, conversations.values())) == manifest["counts"]["trajectories"]["total"] == 600
    assert sum(map(len, prompts.values())) == manifest["counts"]["rl"]["total"] == 400
    for split in SPLITS:
        assert manifest["counts"]["trajectories"]["split"][split] == len(conversations[split]) > 0
        for row in conversations[split]:
            facts = {name: row.pop(name) for name in ("label", "modality")}
            assert Trajectory.model_validate(row).conversations[0].value.startswith(f"<image>\n{facts['modality']}")
            assert (out / row["image"]).is_file()
        for row in prompts[split]:
            truth = GroundTruth.model_validate_json(row["ground_truth"])
            assert (truth.final_label, truth.modality) == (row["label"], row["modality"])
            assert truth.morphology is not None
            assert (out / row["image"]).is_file()
    assert "not a medical device" in (out / "README.md").read_text()


def test_rows_are_sorted_and_no_group_stands_in_two_splits(phantoms):
    _, out = phantoms
    for kind in ("trajectories", "rl"):
        rows = read(out, kind)
        for split in SPLITS:
            ids = [row["id"] for row in rows[split]]
            assert ids == sorted(set(ids))
        groups = [{row["group"] for row in rows[split]} for split in SPLITS]
        assert len(set.union(*groups)) == sum(map(len, groups))


def test_annotators_err_in_the_conversations_and_not_in_the_references(phantoms):
    _, out = phantoms
    samples = pq.read_table(out / "samples.parquet").to_pylist()
    pairs = [(json.loads(row["annotation"]), json.loads(row["morphology"]), row["id"]) for row in samples]
    assert 0.5 < sum(agreement(annotation, truth) for annotation, truth, _ in pairs) / len(pairs) < 0.98
    truths = {sample_id: truth for _, truth, sample_id in pairs}
    for row in read(out, "rl")["train"]:
        assert (
            json.loads(row["ground_truth"])["morph"]
            == truths[row["id"].removeprefix("grpo_task1_").removeprefix("grpo_task3_")]
        )


def test_an_unchanged_run_does_no_work_and_a_changed_one_is_refused(phantoms, capsys):
    config, out = phantoms
    before = (out / "manifest.json").stat().st_mtime_ns
    prepare.run(config)
    assert "nothing to do" in capsys.readouterr().out
    assert (out / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other settings or data"):
        prepare.run(config.model_copy(update={"seed": 1}))


def test_a_changed_setting_reads_again_only_what_depends_on_it(phantoms, tmp_path, monkeypatch):
    config, _ = phantoms
    again = config.model_copy(update={"out": tmp_path / "again", "cache": config.cache_folder})
    monkeypatch.setattr(prepare, "open_source", without_drawing)
    prepare.run(again)
    assert (tmp_path / "again" / "manifest.json").is_file()
    prepare.run(again.model_copy(update={"formats": ["hierarchy"], "replace": True}))
    assert {row["format"] for row in read(tmp_path / "again", "trajectories")["train"]} == {"hierarchy"}
    assert [path.name for path in tmp_path.iterdir() if "again" in path.name] == ["again"]
    with pytest.raises(RayTaskError, match="drawn again"):
        prepare.run(again.model_copy(update={"images": ImageSettings(encoding="jpeg"), "replace": True}))
    assert json.loads((tmp_path / "again" / "manifest.json").read_text())["settings"]["formats"] == ["hierarchy"]


def without_drawing(config, seed):
    source = open_source(config, seed)

    def refuse(entry):
        raise RuntimeError("drawn again")

    source.sample = refuse
    return source


def test_a_run_that_was_cut_off_goes_on_where_it_was(ray_cluster, tmp_path):
    arguments = ["source=phantoms", "count=1500", f"out={tmp_path / 'data'}", "formats=[diagnosis]"]
    command = [sys.executable, "-m", "jobs.prepare", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    blocks = tmp_path / "data.cache" / "rows"
    job = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while len(list(blocks.rglob("*.parquet"))) < 2:
            assert time.monotonic() < deadline, "no two blocks were stored within 120 s"
            assert job.poll() is None, "it was done before it could be cut off"
            time.sleep(0.05)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    done = {path.name: path.stat().st_mtime_ns for path in blocks.rglob("*.parquet")}
    assert not (tmp_path / "data").exists()
    prepare.run(load(PrepareConfig, None, arguments))
    assert json.loads((tmp_path / "data" / "manifest.json").read_text())["read"] == {"phantoms": 1500}
    assert {name: (blocks / name[:2] / name).stat().st_mtime_ns for name in done} == done


def test_the_content_does_not_depend_on_how_the_work_is_cut_up(phantoms, tmp_path, monkeypatch):
    config, out = phantoms
    monkeypatch.setattr(prepare, "_IMAGES_PER_TASK", 23)
    prepare.run(config.model_copy(update={"out": tmp_path / "again", "cache": tmp_path / "another cache"}))
    first, second = (json.loads((folder / "manifest.json").read_text()) for folder in (out, tmp_path / "again"))
    assert first["content_hash"] == second["content_hash"]
    for path in sorted(out.rglob("*.parquet")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(out)).read_bytes()


PREPARE_WITH_WORKERS = """
import sys
from dermo_ray.config import load
from dermo_ray.config.prepare import PrepareConfig
from jobs import prepare
from jobs.cluster import ray_session

prepare._IMAGES_PER_TASK = 20
with ray_session(num_cpus=int(sys.argv[1])):
    prepare.run(load(PrepareConfig, None, sys.argv[2:]))
"""


@pytest.mark.slow
def test_the_content_does_not_depend_on_the_number_of_workers(tmp_path):
    hashes = set()
    for workers in ("1", "3"):
        arguments = ["source=phantoms", "count=200", "phantom.size=48", f"out={tmp_path / workers}"]
        job = [sys.executable, "-c", PREPARE_WITH_WORKERS, workers, *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        subprocess.run(job, cwd=REPOSITORY, env=environment, check=True, timeout=300)
        hashes.add(json.loads((tmp_path / workers / "manifest.json").read_text())["content_hash"])
    assert len(hashes) == 1


@pytest.fixture
def damaged_ham10000(tmp_path, write_ham10000) -> Path:
    root = tmp_path / "ham10000"
    root.mkdir()
    labels = ["nv"] * 60 + ["mel"] * 20
    rows = [(f"HAM_{i // 2}", f"ISIC_{i:02d}", label) for i, label in enumerate(labels)]
    rows += [("HAM_90", "ISIC_90", "xyz"), ("HAM_91", "ISIC_91", ""), ("HAM_92", "ISIC_92", "nv")]
    rows += [("HAM_93", "ISIC_93", "nv"), ("HAM_94", "ISIC_94", "nv"), ("HAM_0", "ISIC_00", "nv")]
    write_ham10000(
        root, rows, {image_id: 1 + (i % 2) for i, (_, image_id, _) in enumerate(rows) if image_id != "ISIC_94"}
    )
    damaged = {path.stem: path for path in root.rglob("*.jpg")}
    damaged["ISIC_92"].write_bytes(b"")
    damaged["ISIC_93"].write_bytes(damaged["ISIC_93"].read_bytes()[:400])
    return root


def test_what_can_not_be_used_is_counted_by_reason_and_the_run_goes_on(ray_cluster, damaged_ham10000, tmp_path):
    out = tmp_path / "out"
    prepare.run(settings(source="ham10000", root=damaged_ham10000, out=out))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["read"] == {"ham10000": 86}
    assert manifest["kept"] == {"ham10000": 80}
    assert manifest["dropped"] == {
        "ham10000": {
            "damaged_image": 1,
            "duplicate_id": 1,
            "empty_file": 1,
            "missing_file": 1,
            "missing_label": 1,
            "unknown_label": 1,
        }
    }
    assert manifest["labels"] == {"missing": 1, "unknown": {"xyz": {"count": 1, "nearest": []}}}
    assert len(pq.read_table(out / "rejects.parquet")) == 6
    rows = read(out, "rl")
    truths = [GroundTruth.model_validate_json(row["ground_truth"]) for split in SPLITS for row in rows[split]]
    assert {truth.task for truth in truths} == {"task3"}
    assert all(truth.morphology is None and truth.taxon_path for truth in truths)
    assert {row["format"] for row in read(out, "trajectories")["train"]} == {"diagnosis", "hierarchy"}


def test_balance_repeats_rare_labels_in_training_alone(ray_cluster, damaged_ham10000, tmp_path):
    out = tmp_path / "out"
    prepare.run(
        settings(source="ham10000", root=damaged_ham10000, out=out, formats=["diagnosis"], balance=True, max_repeat=2)
    )
    for kind in ("trajectories", "rl"):
        rows = read(out, kind)
        train = [row["id"] for row in rows["train"]]
        assert train == sorted(set(train))
        counts = Counter(row["label"] for row in rows["train"])
        melanomas = {row["id"].split("#")[0] for row in rows["train"] if row["label"] == "Melanoma"}
        assert counts["Melanoma"] == 2 * len(melanomas) < counts["Melanocytic Nevus"]
        assert not any("#" in row["id"] for split in ("val", "test") for row in rows[split])


def test_too_few_usable_images_stop_the_run_and_leave_nothing_behind(ray_cluster, damaged_ham10000, tmp_path):
    out = tmp_path / "few" / "out"
    with pytest.raises(UserError, match="only 80 of 86 images are usable, fewer than min_images=81"):
        prepare.run(settings(source="ham10000", root=damaged_ham10000, out=out, min_images=81))
    assert [path.name for path in out.parent.iterdir()] == ["out.cache"]


def test_a_split_without_images_stops_the_run_and_one_of_share_zero_is_not_written(
    ray_cluster, damaged_ham10000, tmp_path
):
    source = {"source": "ham10000", "root": damaged_ham10000, "out": tmp_path / "out"}
    with pytest.raises(UserError, match="no image falls into val"):
        prepare.run(settings(**source, split={"val": 0.0001, "test": 0.1}))
    prepare.run(settings(**source, split={"val": 0, "test": 0.1}))
    assert sorted(path.name for path in (tmp_path / "out" / "rl").iterdir()) == ["test", "train"]


def test_formats_that_no_image_allows_stop_the_run(ray_cluster, damaged_ham10000, tmp_path):
    with pytest.raises(UserError, match="no image has the annotations for tasks"):
        prepare.run(settings(source="ham10000", root=damaged_ham10000, out=tmp_path / "out", tasks=["task1"]))


def test_copies_and_images_of_a_benchmark_are_not_trained_on(ray_cluster, damaged_ham10000, tmp_path, write_ham10000):
    measured = tmp_path / "benchmark"
    measured.mkdir()
    rows = [("HAM_0", "ISIC_00", "nv"), ("HAM_1", "ISIC_02", "nv")]
    write_ham10000(measured, rows, {"ISIC_00": 1, "ISIC_02": 1})  # ISIC_00 is drawn as there, ISIC_02 is not
    copy = damaged_ham10000 / "HAM10000_images_part_1"
    shutil.copy(copy / "ISIC_10.jpg", copy / "ISIC_20.jpg")
    sources = [
        {"name": "ham10000", "root": damaged_ham10000},
        {"name": "ham10000", "alias": "measured", "root": measured, "use": "benchmark"},
    ]
    prepare.run(settings(sources=sources, out=tmp_path / "out"))
    dropped = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    rejects = {row["id"]: row for row in dropped if row["reject"] != "duplicate_id"}
    same = {"ham10000_ISIC_00": "measured_ISIC_00", "ham10000_ISIC_20": "ham10000_ISIC_10"}
    assert {sample_id: rejects[sample_id]["same_as"] for sample_id in same} == same
    # ISIC_01 shows the lesion of ISIC_00, which the benchmark measures
    overlaps = {sample_id for sample_id, row in rejects.items() if row["reject"] == "benchmark_overlap"}
    assert {"ham10000_ISIC_00", "ham10000_ISIC_01"} <= overlaps
    samples = pq.read_table(tmp_path / "out" / "samples.parquet").to_pylist()
    assert {row["split"] for row in samples if row["source"] == "measured"} == {"benchmark"}
    trained_on = {row["source"] for split in read(tmp_path / "out", "trajectories").values() for row in split}
    assert trained_on == {"ham10000"}


@pytest.mark.parametrize("dry_run", [False, True])
def test_unmapped_labels_are_all_shown_before_they_stop_the_run(tmp_path, write_ham10000, capsys, dry_run):
    labels = [f"nevuss {letter}" for letter in "abcdefg"] + ["nv", "xyz", "xyz"]
    rows = [(f"HAM_{i}", f"ISIC_{i}", label) for i, label in enumerate(labels)]
    write_ham10000(tmp_path, rows, {image: 1 for _, image, _ in rows})
    out = tmp_path / "out"
    with pytest.raises(UserError, match="8 labels of 9 images are not in the taxonomy: add them as synonyms"):
        prepare.run(settings(source="ham10000", root=tmp_path, out=out, unmapped="stop", dry_run=dry_run))
    said = capsys.readouterr().out
    assert all(label in said for label in set(labels) - {"nv"})
    assert "Nevus" in said
    assert ("To be read" in said) == dry_run
    assert not out.exists()


def test_a_dry_run_says_what_would_be_read_and_writes_nothing(damaged_ham10000, tmp_path, capsys):
    prepare.run(settings(source="ham10000", root=damaged_ham10000, out=tmp_path / "out", dry_run=True))
    said = capsys.readouterr().out
    assert "86" in said
    assert "missing_file" in said
    assert "xyz" in said
    assert not (tmp_path / "out").exists()


def test_an_export_holds_every_record_in_the_released_shape(ray_cluster, damaged_ham10000, tmp_path):
    out = tmp_path / "out"
    prepare.run(settings(source="ham10000", root=damaged_ham10000, out=out, export="llava"))
    written = {row["id"] for row in read(out, "trajectories")["train"]}
    exported = json.loads((out / "llava" / "trajectories_train.json").read_text())
    assert {record["id"] for record in exported} == written
    assert json.loads((out / "llava" / "diagnosis_mapping.json").read_text())["nv"] == "Melanocytic Nevus"


def test_what_a_teacher_writes_is_marked_and_is_no_reference(ray_cluster, damaged_ham10000, tmp_path):
    findings = {DERM7PT_KEY: {name: values[0] for name, values in DERM7PT_FIELDS.items()}}
    seen = {"detailed_description": "word " * 20, "morphological_features_others": [], **findings}
    with serving(lambda body, count: completion(json.dumps(seen))) as teacher:
        out = tmp_path / "out"
        endpoint = {"base_url": teacher.base_url, "model": "stub"}
        asking = {"endpoint": endpoint, "cache": tmp_path / "answers", "fields": ["morphology", "description"]}
        prepare.run(settings(source="ham10000", root=damaged_ham10000, out=out, teacher=asking))
    samples = pq.read_table(out / "samples.parquet").to_pylist()
    assert all(row["annotation"] and not row["morphology"] for row in samples if row["annotator"])
    rows = [row for split in read(out, "trajectories").values() for row in split]
    assert {row["annotator"] is not None for row in rows if row["format"] == "morph_description"} == {True}
    assert all("morph" not in json.loads(row["ground_truth"]) for row in read(out, "rl")["train"])


def test_a_teacher_that_does_not_answer_stops_the_run_before_an_image_is_read(ray_cluster, damaged_ham10000, tmp_path):
    out = tmp_path / "out"
    asking = {"endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}, "cache": tmp_path / "answers"}
    with pytest.raises(UserError, match=r"the teacher at http://127\.0\.0\.1:9/v1 does not answer"):
        prepare.run(settings(source="ham10000", root=damaged_ham10000, out=out, teacher=asking))
    assert not list(tmp_path.glob("out*/**/*.*"))


def test_questions_without_an_answer_are_asked_again_by_an_unchanged_run(
    ray_cluster, damaged_ham10000, tmp_path, capsys
):
    findings = {DERM7PT_KEY: {name: values[0] for name, values in DERM7PT_FIELDS.items()}}
    seen = json.dumps({"detailed_description": "word " * 20, "morphological_features_others": [], **findings})

    def respond(body, count):
        return error(400) if count < 3 else completion(seen)

    with serving(respond) as teacher:
        out = tmp_path / "out"
        asking = {"endpoint": {"base_url": teacher.base_url, "model": "stub"}, "cache": tmp_path / "answers"}
        config = settings(
            source="ham10000",
            root=damaged_ham10000,
            out=out,
            formats=["diagnosis"],
            teacher=asking | {"fields": ["morphology"], "budget_requests": 43},
        )

        def counts() -> tuple[int, int, int]:
            prepare.run(config)
            asked = json.loads((out / "manifest.json").read_text())["teacher"]
            return asked["accepted"]["morphology"], sum(asked["failed"].values()), asked["over_budget"]

        assert counts() == (40, 3, 39)
        assert counts() == (82, 0, 0)
        sent = len(teacher.bodies)
        capsys.readouterr()
        assert counts() == (82, 0, 0)
        assert "nothing to do" in capsys.readouterr().out
        assert len(teacher.bodies) == sent == 85


def test_what_a_concept_model_drafts_is_marked_and_is_no_reference(ray_cluster, damaged_ham10000, tmp_path):
    encoder = EncoderSettings(size=32, widths=(8, 16), depths=(1, 1))
    model, out = tmp_path / "concepts", tmp_path / "out"
    new_model(encoder, {}, ["derm7pt"]).save_pretrained(model)
    new_processor(encoder).save_pretrained(model)
    config = settings(source="ham10000", root=damaged_ham10000, out=out, concepts=model)
    prepare.run(config)
    samples = pq.read_table(out / "samples.parquet").to_pylist()
    assert all(row["annotation"] and not row["morphology"] for row in samples)
    assert {row["annotator"] for row in samples} == {annotator_of(model)}
    rows = [row for split in read(out, "trajectories").values() for row in split]
    assert {row["annotator"] for row in rows if row["format"] == "morph_reasoning"} == {annotator_of(model)}
    assert all("morph" not in json.loads(row["ground_truth"]) for row in read(out, "rl")["train"])
    missing = settings(source="ham10000", root=damaged_ham10000, out=tmp_path / "other", concepts=tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no concept model"):
        prepare.run(missing)
    assert not missing.out.exists()
    prepare.run(config)  # unchanged
    new_model(encoder, {}, ["skincon", "derm7pt"]).save_pretrained(model)
    with pytest.raises(UserError, match="other settings or data"):
        prepare.run(config)


def test_a_mixture_is_read_into_one_folder(ray_cluster, damaged_ham10000, tmp_path):
    out = tmp_path / "out"
    sources = [{"name": "ham10000", "root": damaged_ham10000}, {"name": "phantoms", "count": 30}]
    prepare.run(settings(sources=sources, out=out))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["kept"] == {"ham10000": 80, "phantoms": 30}
    assert set(manifest["licences"]) == {"ham10000", "phantoms"}


def test_a_folder_that_is_no_prepared_one_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        prepare.run(settings(source="phantoms", count=20, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["out=x"], "name one data set with source=NAME"),
        (["source=ham10000", "out=x"], "source ham10000 needs root=DIR"),
        (["source=phantoms", "out=x"], "source phantoms needs count=NUMBER"),
        (["source=phantoms", "count=5", "root=y", "out=x"], "phantoms has no use for root"),
        (["source=ham10000", "root=y", "count=5", "out=x"], "ham10000 has no use for count, which is for phantoms"),
        (["source=phantoms", "count=5"], "the setting out is required"),
        (["sources=[{name: phantoms, count: 5, rot: y}]", "out=x"], "did you mean sources.0.root"),
        (["sources=[{name: phantoms, count: 5}]", "count=5", "out=x"], "count belongs to one source"),
        (["sources=[{name: phantoms, count: 5}, {name: phantoms, count: 6}]", "out=x"], "names a data set twice"),
        (["sources=[{name: ddi, root: y, use: train}]", "out=x"], "ddi is a benchmark, which is never trained on"),
        (["source=phantoms", "count=5", "out=x", "split.val=0.6", "split.test=0.4"], "leave nothing to train on"),
    ],
)
def test_a_wrong_setting_is_explained_in_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        load(PrepareConfig, None, overrides)
    assert "\n" not in str(caught.value)


def test_a_source_that_is_there_to_measure_with_is_a_benchmark_without_being_told():
    config = load(PrepareConfig, None, ["sources=[{name: ddi, root: y}, {name: phantoms, count: 5}]", "out=x"])
    assert [source.use for source in config.mixture] == ["benchmark", "train"]
    assert load(PrepareConfig, None, ["source=ddi", "root=y", "out=x"]).mixture[0].use == "benchmark"


def test_the_demo_settings_are_valid():
    config = load(PrepareConfig, REPOSITORY / "configs" / "demo" / "prepare.yaml")
    assert config.prompts == "brief"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_line_answers_a_missing_folder_with_one_line_and_status_2(tmp_path):
    answer = command("jobs.prepare", "source=ham10000", f"root={tmp_path / 'absent'}", f"out={tmp_path / 'out'}")
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: no such folder")
    assert len(answer.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_help_lists_every_setting():
    answer = command("jobs.prepare", "--help")
    assert answer.returncode == 0
    for name in ("source:", "root:", "phantom.nuisances.hair:", "images.max_side:", "max_repeat:"):
        assert name in answer.stdout


def test_an_unknown_job_names_the_nearest_one():
    answer = command("jobs.cli", "prepar")
    assert answer.returncode == 2
    assert "did you mean 'prepare'" in answer.stderr


DATA = Path(os.environ.get("DERMORAY_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "ham10000").is_dir(), reason="the real HAM10000 images are not here")
def test_the_real_ham10000_is_read_whole(ray_cluster, tmp_path):
    out = tmp_path / "out"
    prepare.run(settings(source="ham10000", root=DATA / "ham10000", out=out, images={"max_side": 96}))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["read"] == {"ham10000": 2378}
    assert manifest["dropped"] == {"ham10000": {"near_duplicate": 1}}
    assert len(manifest["counts"]["images"]["label"]) == 7
    image = Image.open(out / read(out, "trajectories")["val"][0]["image"])
    assert (image.size, image.mode) == ((96, 96), "RGB")
