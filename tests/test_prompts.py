"""Prompts: what each style must say."""

from itertools import product
from random import Random
from typing import get_args

import pytest

from dermo_ray.morphology import DERM7PT_FIELDS, DERM7PT_KEY, SKINCON_FEATURES, SKINCON_KEY, Modality
from dermo_ray.prompts import PromptTask, Style, prompt, templates
from dermo_ray.prompts.stems import Request, ask, wordings

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


@pytest.mark.parametrize(("request_", "modality"), product(get_args(Request), get_args(Modality)))
def test_a_request_has_three_to_six_distinct_wordings_without_an_image(request_, modality):
    found = [template.template for template in wordings(request_, "full", modality)]
    assert 3 <= len(set(found)) == len(found) <= 6
    assert all("<image>" not in text and text == text.strip() for text in found)


@pytest.mark.parametrize(("request_", "task"), [("morph_description", "task1"), ("morph_reasoning", "task3")])
@pytest.mark.parametrize("modality", get_args(Modality))
def test_every_wording_that_asks_for_a_completion_spells_out_the_contract_of_the_prompt(request_, task, modality):
    contract = prompt("full", task, modality).partition("\n\n")[2]
    assert contract
    assert all(template.template.endswith(f"\n\n{contract}") for template in wordings(request_, "full", modality))


def test_the_prompt_of_a_task_is_among_its_wordings():
    for request_, task in (("morph_description", "task1"), ("morph_reasoning", "task3"), ("diagnosis", "diagnosis")):
        for style in get_args(Style):
            own = prompt(style, task, "clinical").removeprefix("<image>\n")
            assert own in {ask(request_, style, "clinical", Random(seed)) for seed in range(50)}


@pytest.mark.parametrize("request_", get_args(Request))
def test_the_brief_style_keeps_to_one_wording_of_every_request(request_):
    values = {"field": "streaks", "options": '"a", "b"', "category": "c"}
    assert len({ask(request_, "brief", "clinical", Random(seed), **values) for seed in range(50)}) == 1
    assert len({ask(request_, "full", "clinical", Random(seed), **values) for seed in range(50)}) > 2


def test_a_request_says_what_it_is_given_as_it_stands():
    text = ask("hierarchy_middle", "full", "clinical", Random(0), category="A $modality", options='"$x", "y"')
    assert "A $modality" in text
    assert '"$x", "y"' in text
    with pytest.raises(KeyError, match="options"):
        ask("hierarchy_leaves", "full", "clinical", Random(0))
