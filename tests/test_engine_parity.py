"""Engine and learner score the same completions alike: several images in a prompt, an adapter of the vision tower."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from learner_cases import drawn_images, move

from actors.adapters import Adapter
from actors.images import read_images, store_images
from actors.messages import Group, Prompt, Sampling, ScoredGroup, TrainingGroup
from actors.pieces import assemble, strands_of
from actors.rollout import rollout_pool
from dermo_ray.config.mavic import RolloutSettings
from dermo_ray.config.model import LoraSettings, ModelSettings
from dermo_ray.models.batches import encode_images
from dermo_ray.models.chat import banned_token_ids, load_processor
from dermo_ray.models.policy import PolicyScorer, load_policy
from dermo_ray.records import GroundTruth, RLPrompt
from rewards import Reward

ENGINE = {"max_model_len": 512, "max_num_seqs": 16, "cpu_kv_cache_gib": 0.1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_images(tmp_path_factory.mktemp("parity-data"))


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on language model and vision tower that changes what both do."""
    folder = tmp_path_factory.mktemp("vision-adapter")
    policy = load_policy(ModelSettings(path=tiny_model), LoraSettings(rank=8, alpha=8), vision="lora")
    move(policy, torch.Generator().manual_seed(0))
    policy.save_pretrained(folder)
    return folder


PROMPTS = [
    RLPrompt(
        id=f"p{number}",
        image=images[0],
        further_images=images[1:],
        source="s",
        group="g",
        prompt="<image>\n" * len(images) + "diagnose",
        ground_truth=GroundTruth(task="task3", modality="clinical", final_label="Psoriasis"),
    )
    for number, images in enumerate((["0.png"], ["1.png", "2.png"], ["3.png", "0.png", "1.png"]))
]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_engine_and_learner_agree_on_several_images_under_an_adapter_of_the_tower(
    tiny_model: Path, adapter: Path, data: Path
) -> None:
    settings = RolloutSettings.model_validate({"engine": ENGINE | {"vision_adapters": True}})
    pool = rollout_pool(settings, ModelSettings(path=tiny_model), 8, data)
    pool.start_arguments = (Adapter.at(adapter, 0),)

    async def sample() -> list[Group]:
        try:
            await pool.open()
            sampling = Sampling(n=3, max_tokens=24, seed=1)
            prompts = [Prompt(index, record, store_images(data, record)) for index, record in enumerate(PROMPTS)]
            return await asyncio.gather(*(pool.call("sample", prompt, sampling, timeout=120) for prompt in prompts))
        finally:
            await pool.close(farewell="close")

    groups = asyncio.run(sample())
    reward = Reward(0.5, {}, (), {}, 1.0, frozenset())
    training = [TrainingGroup(ScoredGroup(group, [reward] * 3), [0.0] * 3) for group in groups]
    strands = strands_of(training, 4096, share=True, mask_truncated=False)
    processor: Any = load_processor(tiny_model)
    images = [encode_images(processor, read_images(group.prompt, data)) for group in groups]
    piece = assemble(strands, images, processor.tokenizer.pad_token_id)
    policy: Any = load_policy(ModelSettings(path=tiny_model), adapter=adapter).eval()
    scorer = PolicyScorer(policy, banned_token_ids(processor, policy.get_output_embeddings().weight.shape[0]))
    with torch.no_grad():
        learner = scorer(piece.batch)
        with policy.disable_adapter():
            without = scorer(piece.batch)
    reported = piece.rollout_logprobs[piece.mask]
    assert (learner - reported).abs().mean() <= 1e-3
    assert (without - reported).abs().mean() > 1e-2
