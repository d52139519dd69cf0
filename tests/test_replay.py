"""Runs from what an earlier run recorded: the same tokens, log-probabilities, rewards and age, in the same order."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fake_pools import record, reward, sampled, settings
from PIL import Image

from actors.batch import completion_rows, dropped_rows
from actors.messages import Group, Prompt, Sampling, ScoredGroup, TrainingGroup
from actors.replay import Dump, DumpedRewards, DumpedRollouts, DumpOrder
from dermo_ray import rollouts
from dermo_ray.errors import UserError

PROMPTS = [record(number) for number in range(3)]


def scored_group(index: int, version: int) -> ScoredGroup:
    completions = [sampled(tokens=2 + index), sampled(tokens=1, finish_reason="length")]
    group = Group(Prompt(index, PROMPTS[index % 3]), version, [7, 8], completions)
    return ScoredGroup(group, [reward(0.25, format=0.5), reward(1.0, ("no morph",), format=1.0)])


def write_run(folder: Path, first_step: int = 0) -> list[ScoredGroup]:
    """Two updates of two groups each, the second from completions an update old; the second drops a group as well."""
    groups = [scored_group(index, first_step) for index in range(5)]
    for step, (batch, dropped) in enumerate([(groups[:2], []), (groups[2:4], groups[4:])], start=first_step):
        rows = [row for one in batch for row in completion_rows(TrainingGroup(one, [1.0, -1.0]), step, {})]
        rows += [row for one in dropped for row in dropped_rows(one, step)]
        rollouts.write(rows, rollouts.step_file(folder, step))
    return groups


class FakeProcessor:
    """Stands for a processor: a prompt's ids are its length and the sizes of its images."""

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return "".join(part.get("text", "|") for message in messages for part in message["content"])

    def __call__(self, text: list[str], images: list[Image.Image]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[len(text[0]), *(side for image in images for side in image.size)]]}


def replayed(dump: Dump, data: Path, **values: Any) -> list[Group]:
    Image.new("RGB", (5, 3)).save(data / "a.png")
    Image.new("RGB", (2, 4)).save(data / "b.png")
    processor: Any = FakeProcessor()
    config = settings(data, data=data, batch_groups=2, **values)
    rollout, order = DumpedRollouts(dump, processor, config), DumpOrder(dump)

    async def all_groups() -> list[Group]:
        count = len(dump.groups)
        return [await rollout.sample(Prompt(index, order[index]), Sampling()) for index in range(count)]

    return asyncio.run(all_groups())


def test_groups_come_back_as_they_were_in_their_order(tmp_path: Path) -> None:
    groups = write_run(tmp_path / "rollouts")
    again = replayed(Dump.read(tmp_path / "rollouts", PROMPTS), tmp_path)
    assert [group.version for group in again[:4]] == [0, 0, 0, 0]
    for before, after in zip(groups, again, strict=True):
        assert after.prompt.record == before.group.prompt.record
        assert after.prompt_ids == [len("|Name"), 5, 3]
        for old, new in zip(before.group.completions, after.completions, strict=True):
            assert (new.token_ids, new.logprobs, new.text, new.truncated) == (
                old.token_ids,
                old.logprobs,
                old.text,
                old.truncated,
            )


def test_completions_are_as_old_as_they_were_whenever_the_recording_began(tmp_path: Path) -> None:
    write_run(tmp_path / "rollouts", first_step=10)
    ages = [
        index // 2 - group.version
        for index, group in enumerate(replayed(Dump.read(tmp_path / "rollouts", PROMPTS), tmp_path))
    ]
    assert ages == [0, 0, 1, 1, 2 - 1]  # the dropped group counts towards the next update


def test_a_prompt_with_several_images_is_tokenised_with_all_of_them(tmp_path: Path) -> None:
    write_run(tmp_path / "rollouts")
    prompt = PROMPTS[0].model_copy(update={"further_images": ["b.png"], "prompt": "<image>\n<image>\nName"})
    (first, *_) = replayed(Dump.read(tmp_path / "rollouts", [prompt, *PROMPTS[1:]]), tmp_path)
    assert first.prompt_ids == [len("||Name"), 5, 3, 2, 4]


def test_dropped_groups_take_no_place_in_a_batch_that_drops_them_again(tmp_path: Path) -> None:
    groups = [scored_group(index, version) for index, version in enumerate([0, 0, 0, 0, 0, 1, 1, 2])]
    updates = [([0, 1], [2, 3, 4]), ([5, 6], []), ([7, 1], [])]  # an age of 0 but for the last
    for step, (trained, dropped) in enumerate(updates):
        rows = [row for at in trained for row in completion_rows(TrainingGroup(groups[at], [1.0, -1.0]), step, {})]
        rows += [row for at in dropped for row in dropped_rows(groups[at], step)]
        rollouts.write(rows, rollouts.step_file(tmp_path / "rollouts", step))
    dump = Dump.read(tmp_path / "rollouts", PROMPTS)
    assert dump.steps(2, drops=True) == [0, 0, 1, 1, 1, 1, 1, 2, 2]
    assert dump.steps(2, drops=False) == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    versions = [group.version for group in replayed(dump, tmp_path, algorithm={"dynamic_sampling": True})]
    assert versions == [0, 0, 1, 1, 1, 1, 1, 2, 0]  # the dropped ones count towards the next update


def test_recorded_rewards_are_given_again(tmp_path: Path) -> None:
    groups = write_run(tmp_path / "rollouts")
    scoring = DumpedRewards(Dump.read(tmp_path / "rollouts", PROMPTS))
    for one in groups:
        assert asyncio.run(scoring.score(one.group)).rewards == one.rewards


def test_a_dump_that_is_used_up_says_how_much_it_holds(tmp_path: Path) -> None:
    write_run(tmp_path / "rollouts")
    order = DumpOrder(Dump.read(tmp_path / "rollouts", PROMPTS))
    with pytest.raises(UserError, match="holds 5 groups and more are needed: give fewer steps"):
        order[5]


def test_a_dump_of_other_prompts_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "rollouts")
    with pytest.raises(UserError, match="p002, which is not among the prompts of data"):
        Dump.read(tmp_path / "rollouts", PROMPTS[:2])


def test_a_dump_without_token_ids_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "rollouts")
    rows = [row.model_copy(update={"token_ids": None}) for row in rollouts.read(tmp_path / "rollouts")]
    rollouts.write(rows, tmp_path / "old" / "step_000000.parquet")
    with pytest.raises(UserError, match="was written without token ids"):
        Dump.read(tmp_path / "old", PROMPTS)
