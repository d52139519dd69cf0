"""The conversations of a prepared folder: reading, order and shares of ranks."""

import json
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dermo_ray.data.conversations import Conversations, batch_indices, content_hash, count, deal, formats
from dermo_ray.data.tables import TRAJECTORIES, write
from dermo_ray.errors import UserError


@pytest.fixture
def prepared(tmp_path, monkeypatch) -> Path:
    """A prepared folder of five conversations about one image in train, and none in val."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    Image.new("L", (40, 30), 128).save(folder / "images" / "grey.png")
    (folder / "manifest.json").write_text(json.dumps({"content_hash": "abc"}))
    rows = [
        {
            "id": f"diagnosis_{index}",
            "image": "images/grey.png",
            "format": "diagnosis",
            "source": "phantoms",
            "group": f"lesion_{index}",
            "label": "Nevus",
            "modality": "dermoscopic",
            "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "n" * index}],
        }
        for index in range(5)
    ]
    write(rows, TRAJECTORIES, folder / "trajectories" / "train")
    return folder


def test_conversations_are_read_in_the_order_written_with_an_rgb_image(prepared):
    conversations = Conversations(prepared, "train")
    assert [conversations[index].id for index in range(len(conversations))] == [f"diagnosis_{i}" for i in range(5)]
    assert conversations[3].turns[1] == {"from": "gpt", "value": "nnn"}
    assert conversations[3].characters == len("<image>\nWhat?") + 3
    assert [image.mode for image in conversations[3].read_images()] == ["RGB"]
    assert conversations[3].format == "diagnosis"
    names, positions = formats(prepared, "train")
    assert (names, positions.tolist()) == (["diagnosis"], [0] * 5)
    assert count(prepared, "train") == 5
    assert content_hash(prepared) == "abc"


def test_an_empty_split_and_a_folder_that_is_not_prepared_are_named(prepared, tmp_path):
    with pytest.raises(UserError, match="no conversations in its val split"):
        count(prepared, "val")
    with pytest.raises(UserError, match=r"no prepared folder: run jobs\.prepare"):
        Conversations(tmp_path / "nothing", "train")


@given(size=st.integers(1, 40), batch_size=st.integers(1, 17), seed=st.integers(0, 3))
def test_every_epoch_shows_every_conversation_once(size, batch_size, seed):
    epochs = 3
    steps = -(-epochs * size // batch_size)
    row = [index for step in range(steps) for index in batch_indices(size, batch_size, seed, step)]
    for epoch in range(epochs):
        assert sorted(row[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_epochs_and_seeds_shuffle_differently_and_the_same_seed_alike():
    first, second = batch_indices(50, 50, 0, 0), batch_indices(50, 50, 0, 1)
    assert first != second
    assert first != batch_indices(50, 50, 1, 0)
    assert first == batch_indices(50, 50, 0, 0)


@given(lengths=st.lists(st.integers(1, 500), max_size=40), ranks=st.integers(1, 6))
def test_shares_hold_every_position_once_and_are_equal(lengths, ranks):
    shares = deal(lengths, ranks)
    assert sorted(position for share in shares for position in share) == list(range(len(lengths)))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    totals = [sum(lengths[position] for position in share) for share in shares]
    assert max(totals) - min(totals) <= max(lengths, default=0)
