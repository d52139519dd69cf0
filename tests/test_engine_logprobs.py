"""What the engine reports of probabilities, from vLLM's own container."""

import pytest
from vllm.logprobs import FlatLogprobs, Logprob

from actors.engine import _logprobs


def flat(*places: dict[int, float]) -> FlatLogprobs:
    found = FlatLogprobs()
    for place in places:
        found.append({token: Logprob(logprob) for token, logprob in place.items()})
    return found


def test_the_sampled_token_comes_first_whatever_its_rank() -> None:
    sampled, likeliest = _logprobs(flat({7: -2.0, 3: -0.5, 4: -1.0}, {3: -0.1, 9: -3.0}))
    assert sampled == [-2.0, -0.1]
    assert likeliest == [{7: -2.0, 3: -0.5, 4: -1.0}, {3: -0.1, 9: -3.0}]


@pytest.mark.parametrize("found", [flat({7: -2.0}, {3: -0.1}), None])
def test_where_none_were_asked_for_no_likeliest_tokens_are_listed(found: FlatLogprobs | None) -> None:
    sampled, likeliest = _logprobs(found)
    assert sampled == ([] if found is None else [-2.0, -0.1])
    assert likeliest == []
