import asyncio
import base64
import io
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import ray
import torch
from malformed import requests, throw
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from ray_nodes import free_port
from safetensors.torch import load_file, save_file

from dermo_ray import checkpoints
from dermo_ray.config.base import load
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.pools import PoolSettings
from dermo_ray.config.release import ReleaseConfig
from dermo_ray.config.serve import ServeConfig
from dermo_ray.errors import UserError
from dermo_ray.models.chat import banned_token_ids, load_processor, prompt_text
from dermo_ray.models.policy import load_policy
from dermo_ray.phantom.render import draw
from dermo_ray.phantom.settings import PhantomSettings
from jobs import release
from jobs.serve import serving

QUESTION = "What does the skin show?"
FINGERPRINT = "tiny@step_000007/v7"
LENGTH = 12


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(draw(3, PhantomSettings(size=96)).image)


@pytest.fixture(scope="module")
def run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `trained_run`, whose one checkpoint holds `tiny_adapter`, to add others to."""
    copy = tmp_path_factory.mktemp("served") / "run"
    shutil.copytree(trained_run, copy, symlinks=True)
    return copy


@pytest.fixture(scope="module")
def config(run: Path) -> ServeConfig:
    settings = {
        "run": run,
        "name": "tiny",
        "port": free_port(),
        "prompts": "brief",
        "max_tokens": 24,
        "engine.max_model_len": 512,
        "engine.max_num_seqs": 8,
        "engine.cpu_kv_cache_gib": 0.1,
        "live.poll_seconds": 0.2,
    }
    return load(ServeConfig, None, [f"{key}={value}" for key, value in settings.items()])


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


def data_uri(image: Image.Image, comments: PngInfo | None = None) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=comments)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def conversation(image: Image.Image, comments: PngInfo | None = None) -> list[ChatCompletionMessageParam]:
    url = data_uri(image, comments)
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


def test_a_file_of_several_mebibytes_reaches_the_engine(client: OpenAI, image: Image.Image):
    comments = PngInfo()
    comments.add_text("Comment", "a" * (6 * 2**20))  # gRPC's own limit is 4 MiB
    answers = [
        client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=LENGTH)
        for messages in (conversation(image, comments), conversation(image))
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


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
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0
    assert chunks[-1].usage == whole.usage  # the model may end its answer before LENGTH


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


def test_a_seed_repeats_an_answer_a_stop_ends_it_and_a_schema_binds_it(
    client: OpenAI, messages: list[ChatCompletionMessageParam]
):
    def ask(**arguments: Any) -> str:
        answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=LENGTH, **arguments)
        return answer.choices[0].message.content or ""

    assert ask(seed=5) == ask(seed=5)
    greedy = ask(temperature=0)
    stop = greedy[len(greedy) // 2]
    assert ask(temperature=0, stop=[stop]) == greedy.partition(stop)[0]
    schema = {"enum": ["naevus", "melanoma"]}  # short enough for a model that else writes at random
    formatted = ask(response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema}})
    assert json.loads(formatted) in schema["enum"]


def test_a_system_prompt_and_a_second_image_change_the_prompt(client: OpenAI, messages: list[Any]):
    def prompt_tokens(conversation: list[Any]) -> int:
        answer = client.chat.completions.create(model="tiny", messages=conversation, max_tokens=1)
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    plain = prompt_tokens(messages)
    assert prompt_tokens([{"role": "system", "content": "Look closely."}, *messages]) > plain
    (question,) = messages
    twice = [{"role": "user", "content": [question["content"][0], *question["content"]]}]
    assert prompt_tokens(twice) > plain + 4


def test_the_models_are_the_newest_checkpoint_and_its_step(client: OpenAI):
    assert {model.id: model.model_extra["root"] for model in client.models.list()} == {  # type: ignore[index]
        name: "tiny@step_000007" for name in ("tiny", "tiny+cct", "tiny@step_000007", "tiny@step_000007+cct")
    }


@pytest.mark.parametrize("route", ["healthz", "readyz"])
def test_health_names_the_policy_that_answers(service: str, route: str):
    answer = httpx.get(f"{service}/{route}")
    assert answer.status_code == 200
    assert (answer.json()["model"], answer.json()["version"]) == ("tiny@step_000007", 7)


@pytest.mark.parametrize("name", ["tiny@step_000008", "base", ""])
def test_an_unknown_model_is_not_found(client: OpenAI, messages: list[ChatCompletionMessageParam], name: str):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=name, messages=messages)
    assert caught.value.body["param"] == "model"  # type: ignore[index]
    assert "tiny@step_000007" in caught.value.message


def test_a_mistake_that_only_the_engine_sees_is_a_bad_request_too(
    client: OpenAI, messages: list[ChatCompletionMessageParam]
):
    wrong: list[dict[str, Any]] = [{"temperature": -1}, {"max_tokens": 10_000}, {"top_logprobs": 3}]
    for arguments in wrong:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(model="tiny", messages=messages, stream=stream, **arguments)


def test_a_diagnosis_by_cct_samples_every_view_and_streams_its_votes(service: str, image: Image.Image):
    asked = {"image": data_uri(image), "modality": "dermoscopic", "model": "tiny+cct"}
    whole = httpx.post(f"{service}/v1/diagnose", json=asked, timeout=60).json()
    assert whole["system_fingerprint"] == FINGERPRINT
    assert (whole["cct"]["planned"], len(whole["cct"]["votes"])) == (8, 8)
    assert whole["usage"]["completion_tokens"] > 8
    streamed = httpx.post(f"{service}/v1/diagnose", json=asked | {"stream": True}, timeout=60).text
    events = [block.split("\n") for block in streamed.strip().split("\n\n")]
    assert [name for name, _ in events].count("event: vote") == 8
    result = json.loads(events[-1][1].removeprefix("data: "))
    texts = [{vote["view"]: vote["text"] for vote in answer["cct"]["votes"]} for answer in (whole, result)]
    assert texts[0] == texts[1]  # an inference can be repeated
    shown = "".join(json.loads(data[6:])["text"] for name, data in events if name == "event: delta")
    assert shown == result["cct"]["votes"][0]["text"].rstrip("\N{REPLACEMENT CHARACTER}")


def test_more_cores_than_the_cluster_has_are_refused_with_both_numbers(config: ServeConfig, ray_cluster: None):
    greedy = config.model_copy(update={"pool": PoolSettings(cpus_per_worker=64), "port": free_port()})
    with pytest.raises(UserError, match=r"64 CPUs are asked for .* the cluster has 2"), serving(greedy):
        pass


def test_hundreds_of_malformed_requests_are_refused_and_the_service_goes_on(
    service: str, client: OpenAI, messages: list[ChatCompletionMessageParam]
):
    async def send() -> dict[str, str]:
        async with httpx.AsyncClient(base_url=service, timeout=60) as http:
            return await throw(http, requests("tiny"))

    assert asyncio.run(send()) == {}
    answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=1)
    assert answer.system_fingerprint == FINGERPRINT


def altered(adapter: Path, factor: float) -> Callable[[Path], None]:
    """Writes `adapter` with its change to the base model multiplied by `factor`."""

    def write(folder: Path) -> None:
        shutil.copytree(adapter, folder)
        weights = load_file(folder / "adapter_model.safetensors")
        changed = {name: weight * (factor if "lora_B" in name else 1) for name, weight in weights.items()}
        save_file(changed, folder / "adapter_model.safetensors")

    return write


def cut(adapter: Path) -> Callable[[Path], None]:
    """Writes `adapter` with matrices that fit no layer: sound as a checkpoint, and no engine can take it."""

    def write(folder: Path) -> None:
        shutil.copytree(adapter, folder)
        weights = load_file(folder / "adapter_model.safetensors")
        narrow = {name: weight[:, :3].contiguous() for name, weight in weights.items()}
        save_file(narrow, folder / "adapter_model.safetensors")

    return write


def commit(run: Path, step: int, write: Callable[[Path], None]) -> Path:
    partial = checkpoints.begin(run / "checkpoints", step)
    write(partial / "adapter")
    return checkpoints.commit(partial, {"step": step, "version": step})


def wait_for(listing: Callable[[], dict[str, Any]], condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while not condition(now := listing()):
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    return now


def test_the_log_has_a_line_for_each_request_and_nothing_of_what_was_asked(
    service: str, client: OpenAI, messages: list[Any]
):
    secret = "a question that nobody else may read"
    asked = [{"role": "user", "content": [messages[0]["content"][0], {"type": "text", "text": secret}]}]
    client.chat.completions.create(model="tiny", messages=asked, max_tokens=1)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=asked, max_tokens=10_000)  # type: ignore[arg-type]
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    written = {path: path.read_text(errors="replace") for path in logs.rglob("*") if path.is_file()}
    assert any("anonymous asks /v1/chat/completions" in text for text in written.values())
    image = messages[0]["content"][0]["image_url"]["url"][30:90]
    assert [path for path, text in written.items() if secret in text or image in text] == []


def test_a_new_checkpoint_takes_over_under_load_and_a_bad_one_does_not(
    service: str, client: OpenAI, messages: list[ChatCompletionMessageParam], run: Path, tiny_adapter: Path
):
    def ask(model: str = "tiny") -> tuple[str, str]:
        answer = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=LENGTH)
        return answer.system_fingerprint or "", answer.choices[0].message.content or ""

    def act(action: str, **settings: Any) -> dict[str, Any]:
        return release.run(ReleaseConfig(action=action, url=service, **settings))  # type: ignore[arg-type]

    answers: list[tuple[str, str]] = []
    stop = threading.Event()

    def load_it() -> None:
        while not stop.is_set():
            answers.append(ask())

    asking = [threading.Thread(target=load_it) for _ in range(3)]
    for thread in asking:
        thread.start()
    try:
        old = ask()
        commit(run, 8, altered(tiny_adapter, -1.0))
        wait_for(lambda: act("list"), lambda listing: listing["promoted"] == "step_000008")
        new = ask()
        damaged = run / "checkpoints" / "step_000009"
        shutil.copytree(run / "checkpoints" / "step_000008", damaged)
        (damaged / "adapter" / "adapter_model.safetensors").write_bytes(b"cut off")
        refused = wait_for(lambda: act("list"), lambda listing: "step_000009" in listing["refused"])
        with pytest.raises(UserError, match=r"fits no engine: .* has the shape"):
            act("push", folder=commit(run.parent / "elsewhere", 10, cut(tiny_adapter)))
    finally:
        stop.set()
        for thread in asking:
            thread.join()
    assert "is damaged" in refused["refused"]["step_000009"]
    assert refused["promoted"] == "step_000008"
    assert (old[0], new[0]) == (FINGERPRINT, "tiny@step_000008/v8")
    assert old[1] != new[1]
    # each answer was written by the version that it carries
    assert set(answers) <= {old, new}
    assert {fingerprint for fingerprint, _ in answers} == {old[0], new[0]}

    assert ask("tiny@step_000007") == old
    act("pin", checkpoint="step_000007")
    with pytest.raises(UserError, match="not held here"):
        act("promote", checkpoint="step_000009")
    back = act("rollback")
    assert (back["promoted"], back["on_hold"]) == ("step_000007", True)
    assert ask() == old
    with pytest.raises(openai.NotFoundError):
        ask("tiny@step_000008")
    shutil.rmtree(damaged)
    pushed = act("push", folder=commit(run.parent / "elsewhere", 11, altered(tiny_adapter, 0.5)))
    assert pushed["candidate"] == "step_000011"
    assert ask() == old
    act("promote", checkpoint="step_000011")
    assert ask()[0] == "tiny@step_000011/v11"
