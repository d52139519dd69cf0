"""The benchmark over HTTP: what is sent, and what is read in what comes back."""

import asyncio
import base64
from io import BytesIO
from pathlib import Path

import pytest
from openai.types.chat import ChatCompletion
from PIL import Image

from dermo_ray.bench.endpoint import as_sample, endpoint_policy
from dermo_ray.taxonomy import Taxonomy
from tests import openai_stub
from tests.bench_cases import choice_item, picture, settings, walk_item


def reply(text: str, tokens: list[tuple[str, float, dict[str, float]]] | None) -> tuple[int, dict]:
    status, body = openai_stub.completion(text)
    if tokens is not None:
        body["choices"][0]["logprobs"] = {
            "content": [
                {
                    "token": token,
                    "logprob": logprob,
                    "bytes": list(token.encode()),
                    "top_logprobs": [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in top.items()],
                }
                for token, logprob, top in tokens
            ]
        }
    return status, body


LETTER = [("B", -0.5, {"B": -0.5, "A": -1.0})]


def test_an_item_goes_out_as_a_conversation_with_its_views_as_images(tmp_path: Path) -> None:
    item = choice_item("0", right=1, images=(picture(tmp_path),))
    with openai_stub.serving(lambda body, count: reply("B", LETTER)) as server:
        endpoint = {"base_url": server.base_url, "model": "m", "extra_body": {"seed": None, "top_k": -1}}
        config = settings(tmp_path, policies=[{"name": "policy", "endpoint": endpoint}])

        async def ask():
            async with endpoint_policy(config.policies[0], config, Taxonomy.load()) as respond:
                return await respond(item, "cct")

        found = asyncio.run(ask())
    assert found.texts == ("B) Blue Nevus",)
    assert found.steps[0].confidence == pytest.approx(0.622, abs=1e-3)  # exp(-0.5) against exp(-1)
    assert len(server.bodies) == 8
    assert sorted(body["temperature"] for body in server.bodies) == [0.0] * 4 + [0.7] * 4
    body = server.bodies[0]
    assert (body["model"], body["logprobs"], body["top_logprobs"], body["top_p"]) == ("m", True, 8, 1.0)
    assert (body["max_tokens"], body["top_k"], "seed" in body) == (128, -1, False)
    shown, text = body["messages"][0]["content"]
    assert text["text"].startswith("Which?")
    pixels = base64.b64decode(shown["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert Image.open(BytesIO(pixels)).size == (32, 32)


def test_a_walk_sends_the_answers_before(tmp_path: Path) -> None:
    item = walk_item(images=(picture(tmp_path),))
    with openai_stub.serving(lambda body, count: reply(["Neoplasms", "Nevus"][count], None)) as server:
        endpoint = {"base_url": server.base_url, "model": "m"}
        config = settings(tmp_path, policies=[{"name": "policy", "endpoint": endpoint}])

        async def ask():
            async with endpoint_policy(config.policies[0], config, Taxonomy.load()) as respond:
                return await respond(item, "greedy")

        assert asyncio.run(ask()).texts == ("Neoplasms", "Nevus")
    messages = server.bodies[1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == "Neoplasms"
    assert [part["type"] for part in messages[0]["content"]] == ["image_url", "text"]


def completion(text: str, tokens) -> ChatCompletion:
    return ChatCompletion.model_validate(reply(text, tokens)[1])


def test_tokens_that_spell_the_answer_are_kept_with_the_end_of_the_turn() -> None:
    sample = as_sample(completion("B", [*LETTER, ("<|im_end|>", 0.0, {})]))
    assert (sample.tokens, sample.logprobs) == (["B", "<|im_end|>"], [-0.5, 0.0])
    assert sample.top_logprobs[0] == {"B": -0.5, "A": -1.0}


def test_a_character_spread_over_tokens_is_put_together() -> None:
    found = completion("é", [("x", -0.1, {}), ("y", -0.2, {})])
    for token, byte in zip(found.choices[0].logprobs.content, "é".encode(), strict=True):
        token.bytes = [byte]
    assert as_sample(found).tokens == ["", "é"]


@pytest.mark.parametrize("tokens", [None, [], [("thoughts", -1.0, {}), ("B", -0.5, {})]])
def test_where_tokens_are_missing_or_spell_something_else_the_text_stands_alone(tokens) -> None:
    sample = as_sample(completion("B", tokens))
    assert (sample.text, list(sample.tokens), list(sample.top_logprobs)) == ("B", [], [])
