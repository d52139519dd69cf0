"""Whether the reward can score: the tree is read, the concept model is there, terms of one's own are tried."""

from collections.abc import Iterator

from dermo_ray.config.reward import RewardConfig
from dermo_ray.errors import UserError
from dermo_ray.taxonomy import Taxonomy
from jobs.preflight.finding import Finding
from rewards import Scorer
from rewards.check import DEADLINE, check_reward, probes

CHECK = "reward"


def check_scoring(config: RewardConfig, deadline: float = DEADLINE) -> Iterator[Finding]:
    """Score completions from right to empty; a right one must earn more than an empty one.

    `deadline` is how many seconds each term of one's own has.
    """
    try:
        check_reward(config, deadline)
        groups = list(probes(Taxonomy.load(config.taxonomy)))
        texts = [text for _, texts in groups for text in (texts[0], "")]
        totals = iter([r.total for r in Scorer(config).score(texts, [truth for truth, _ in groups for _ in range(2)])])
    except UserError as error:
        yield Finding(CHECK, "fail", str(error))
        return
    for (truth, _), right, empty in zip(groups, totals, totals, strict=True):
        if right <= empty:
            yield Finding(
                CHECK,
                "warn",
                f"for {truth.task} ({truth.modality}) a right completion earns {right:.2f}, an empty one {empty:.2f}",
                "look at the weights, and at the terms of your own",
            )
            return
    terms = ", ".join(term.name for term in config.others)
    yield Finding(CHECK, "pass", f"right completions earn most{f'; tried {terms}' if terms else ''}")
