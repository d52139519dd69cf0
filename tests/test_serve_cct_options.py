"""What a request may change about CCT."""

import pytest
from pydantic import ValidationError

from dermo_ray.cct import plan
from dermo_ray.config.cct import CCTConfig
from serve.completions import ChatCCT
from serve.inference import CCTOptions


@pytest.mark.parametrize("options", [CCTOptions, ChatCCT])
def test_a_request_may_choose_the_views_of_either_modality(options: type[CCTOptions]) -> None:
    config = options.model_validate({"views": ["identity", "hue_shift"], "samples_per_view": 3}).over(CCTConfig())
    for modality in ("clinical", "dermoscopic"):
        draws = plan(config, modality, 0)
        assert len(draws) == 6
        assert {draw.view for draw in draws} == {"identity", "hue_shift"}
    assert CCTOptions().over(CCTConfig()) == CCTConfig()


@pytest.mark.parametrize(
    ("views", "cause"),
    [
        (["flip_horizontal", "identity"], "the first view is identity"),
        (["identity", "identity"], "listed twice"),
        (["identity", "mosaic"], "Input should be"),
        ([], "at least 1"),
        (["identity", "flip_horizontal", "flip_vertical", "half_turn", "light_crop"], "at most 4"),
    ],
)
def test_views_that_can_not_be_meant_are_refused(views: list[str], cause: str) -> None:
    with pytest.raises(ValidationError, match=cause):
        CCTOptions.model_validate({"views": views})
