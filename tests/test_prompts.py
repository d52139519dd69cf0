"""Prompts: what each style must say."""

from itertools import product
from typing import get_args

import pytest

from dermo_ray.morphology import DERM7PT_FIELDS, DERM7PT_KEY, SKINCON_FEATURES, SKINCON_KEY, Modality
from dermo_ray.prompts import PromptTask, Style, prompt, templates

EVERY = list(product(get_args(Style), get_args(PromptTask), get_args(Modality)))


@pytest.mark.parametrize(("style", "task", "modality"), EVERY)
def test_a_prompt_marks_the_image_first_and_leaves_no_placeholder(style, task, modality):
    text = prompt(style, task, modality)
    assert text.startswith("<image>\n")
    assert text.count("<image>") == 1
    assert "$" not in text


def test_every_prompt_of_a_style_is_distinct():
    for style in get_args(Style):
        assert len(set(templates(style))) == len(get_args(PromptTask)) * len(get_args(Modality))


@pytest.mark.parametrize("task", ["task1", "task3"])
def test_full_prompts_spell_out_the_vocabulary_of_their_modality_alone(task):
    dermoscopic, clinical = prompt("full", task, "dermoscopic"), prompt("full", task, "clinical")
    assert DERM7PT_KEY in dermoscopic
    assert SKINCON_KEY not in dermoscopic
    assert all(name in dermoscopic and " | ".join(values) in dermoscopic for name, values in DERM7PT_FIELDS.items())
    assert SKINCON_KEY in clinical
    assert DERM7PT_KEY not in clinical
    assert all(feature in clinical for feature in SKINCON_FEATURES)


def test_full_prompts_name_the_blocks_of_their_task_in_order():
    places = [
        prompt("full", "task3", "clinical").index(f"<{tag}>") for tag in ("reasoning", "morph", "final_diagnosis")
    ]
    assert places == sorted(places)
    assert "<final_diagnosis>" not in prompt("full", "task1", "clinical")
    assert "<morph>" not in prompt("full", "diagnosis", "clinical")


def test_brief_prompts_take_a_handful_of_words():
    assert all(len(text.split()) <= 4 for text in templates("brief"))
