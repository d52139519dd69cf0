"""What the engine is asked to sample from: the policy's own distribution over the tokens that it may write."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm import SamplingParams

from actors import engine as engines
from actors.engine import Engine
from actors.messages import Sampling


def test_every_field_that_shapes_the_distribution_is_sent_and_leaves_it_as_it_is() -> None:
    engine: Any = SimpleNamespace(_end_of_turn=5, penalties={1: -100.0, 2: -100.0})
    sent = Engine._parameters(engine, Sampling(n=3, temperature=0.7, max_tokens=9, seed=4))
    assert (sent.n, sent.temperature, sent.max_tokens, sent.seed) == (3, 0.7, 9, 4)
    assert (sent.top_p, sent.top_k, sent.min_p, sent.min_tokens) == (1.0, -1, 0.0, 0)
    assert (sent.presence_penalty, sent.frequency_penalty, sent.repetition_penalty) == (0.0, 0.0, 1.0)
    assert (sent.allowed_token_ids, sent.bad_words, sent.stop, sent.watermarking) == (None, [], [], False)
    assert (sent.ignore_eos, sent.stop_token_ids, sent.logit_bias) == (False, [5], {1: -100.0, 2: -100.0})
    assert (sent.logprobs, sent.prompt_logprobs) == (0, None)


COMPUTED = {"output_text_buffer_length"}
"""Public fields that vLLM fills in from others and does not take."""


def test_no_field_is_left_to_a_default_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    def parameters(**fields: Any) -> SamplingParams:
        sent.update(fields)
        return SamplingParams(**fields)

    monkeypatch.setattr(engines, "SamplingParams", parameters)
    Engine._parameters(SimpleNamespace(_end_of_turn=5, penalties={}), Sampling())  # type: ignore[arg-type]
    assert sent.keys() == {name for name in SamplingParams.__struct_fields__ if name[0] != "_"} - COMPUTED
