import base64
import io
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import torch
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from PIL import Image

from dermo_ray.config.model import ModelSettings
from dermo_ray.config.pools import EngineSettings, PoolSettings
from dermo_ray.config.serve import ServeConfig
from dermo_ray.errors import UserError
from dermo_ray.models.chat import banned_token_ids, load_processor, prompt_text
from dermo_ray.models.policy import load_policy
from dermo_ray.phantom.render import draw
from dermo_ray.phantom.settings import PhantomSettings
from jobs.serve import serving

QUESTION = "What does the skin show?"
FINGERPRINT = "tiny@step_000007/v7"
LENGTH = 12


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(draw(3, PhantomSettings(size=96)).image)


@pytest.fixture(scope="module")
def config(trained_run: Path) -> ServeConfig:
    """Serves `trained_run`, whose one checkpoint holds `tiny_adapter`."""
    engine = EngineSettings(max_model_len=512, max_num_seqs=8, cpu_kv_cache_gib=0.1)
    return ServeConfig(run=trained_run, name="tiny", port=free_port(), engine=engine)


@pytest.fixture(scope="module")
def service(config: ServeConfig, ray_cluster: None) -> Iterator[str]:
    with serving(config) as url:
        yield url


@pytest.fixture
def client(service: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def messages(image: Image.Image) -> list[ChatCompletionMessageParam]:
    return conversation(image)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def conversation(image: Image.Image) -> list[ChatCompletionMessageParam]:
    file = io.BytesIO()
    image.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": content}]  # type: ignore[list-item, misc]


@torch.inference_mode()
def greedy_in_transformers(model: Path, adapter: Path | None, image: Image.Image) -> str:
    policy = load_policy(ModelSettings(path=model), adapter=adapter).eval()
    processor = load_processor(model)
    text = prompt_text(processor, [{"from": "human", "value": f"<image>\n{QUESTION}"}])
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    banned = banned_token_ids(processor, policy.config.get_text_config().vocab_size)
    ids = policy.generate(**inputs, max_new_tokens=LENGTH, do_sample=False, suppress_tokens=banned)
    answer = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answer.rstrip("\N{REPLACEMENT CHARACTER}")  # a server sends whole characters: one cut by LENGTH is held back


def test_an_image_is_answered_by_the_adapter_and_not_by_its_base(
    client: OpenAI, messages: list[ChatCompletionMessageParam], image: Image.Image, tiny_model: Path, tiny_adapter: Path
):
    answer = client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=LENGTH)
    assert answer.choices[0].message.content == greedy_in_transformers(tiny_model, tiny_adapter, image)
    assert answer.choices[0].message.content != greedy_in_transformers(tiny_model, None, image)
    assert answer.system_fingerprint == FINGERPRINT
    assert answer.model == "tiny@step_000007"
    other = conversation(Image.new("RGB", (96, 96), "white"))
    blank = client.chat.completions.create(model="tiny", messages=other, temperature=0, max_tokens=LENGTH)
    assert blank.choices[0].message.content != answer.choices[0].message.content


def test_a_stream_adds_up_to_the_answer_and_every_chunk_carries_the_version(
    client: OpenAI, messages: list[ChatCompletionMessageParam]
):
    whole = client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=LENGTH)
    stream = client.chat.completions.create(
        model="tiny@step_000007",
        messages=messages,
        temperature=0,
        max_tokens=LENGTH,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert {(chunk.system_fingerprint, chunk.model) for chunk in chunks} == {(FINGERPRINT, "tiny@step_000007")}
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == LENGTH


def test_several_choices_come_with_the_log_probabilities_of_what_was_sampled(
    client: OpenAI, messages: list[ChatCompletionMessageParam], tiny_model: Path
):
    answer = client.chat.completions.create(
        model="tiny",
        messages=messages,
        n=4,
        seed=1,
        max_tokens=64,
        logprobs=True,
        extra_body={"return_token_ids": True},
    )
    assert len({choice.message.content for choice in answer.choices}) > 1
    processor = load_processor(tiny_model)
    banned = set(banned_token_ids(processor, 10 * len(processor.tokenizer)))
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert all(token.logprob <= 0 for token in choice.logprobs.content)
        sampled = choice.model_extra["token_ids"]  # type: ignore[index]
        assert len(sampled) == len(choice.logprobs.content)
        assert not banned.intersection(sampled)


def test_a_token_that_training_bans_is_not_sampled_even_where_a_client_asks_for_it(
    client: OpenAI, messages: list[ChatCompletionMessageParam], tiny_model: Path
):
    tokenizer = load_processor(tiny_model).tokenizer
    wanted = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<|image_pad|>", "a")}
    for name, token in wanted.items():
        answer = client.chat.completions.create(
            model="tiny", messages=messages, temperature=0, max_tokens=3, logit_bias={str(token): 100},
            extra_body={"return_token_ids": True},
        )  # fmt: skip
        sampled = answer.choices[0].model_extra["token_ids"]  # type: ignore[index]
        assert (token in sampled) == (name == "a")


def test_the_models_are_the_newest_checkpoint_and_its_step(client: OpenAI):
    assert {model.id: model.model_extra["root"] for model in client.models.list()} == {  # type: ignore[index]
        "tiny": "tiny@step_000007",
        "tiny@step_000007": "tiny@step_000007",
    }


def test_health_names_the_policy_that_answers(service: str):
    answer = httpx.get(f"{service}/healthz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "model": "tiny@step_000007", "version": 7}


@pytest.mark.parametrize("name", ["tiny@step_000008", "base", ""])
def test_an_unknown_model_is_not_found(client: OpenAI, messages: list[ChatCompletionMessageParam], name: str):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=name, messages=messages)
    assert caught.value.body["param"] == "model"  # type: ignore[index]
    assert "tiny@step_000007" in caught.value.message


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9/x.png", "data URIs"),
        ("file:///etc/hostname", "data URIs"),
        ("data:image/png;base64,AAAA", "cannot identify image"),
    ],
)
def test_an_image_that_is_no_picture_in_a_data_uri_is_a_bad_request(client: OpenAI, url: str, message: str):
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    with pytest.raises(openai.BadRequestError, match=re.compile(message, re.IGNORECASE)):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": content}])  # type: ignore[list-item, misc]


def test_a_malformed_request_is_a_bad_request(service: str):
    answer = httpx.post(f"{service}/v1/chat/completions", json={"model": "tiny", "messages": "hello"})
    assert answer.status_code == 400
    assert "messages" in answer.json()["error"]["message"]


def test_more_cores_than_the_cluster_has_are_refused_with_both_numbers(config: ServeConfig, ray_cluster: None):
    greedy = config.model_copy(update={"pool": PoolSettings(cpus_per_worker=64), "port": free_port()})
    with pytest.raises(UserError, match=r"64 CPUs are asked for .* the cluster has 2"), serving(greedy):
        pass
