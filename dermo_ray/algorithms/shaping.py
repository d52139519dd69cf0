"""Rewards as the advantages see them: shortened by what a completion costs beyond its content.

Pure functions of one completion; the reward that is recorded stays as it was given.
"""


def overlong_penalty(length: int, *, truncated: bool, max_tokens: int, share: float) -> float:
    """How much of the whole penalty a completion of `length` tokens gets, in [0, 1].

    0 up to (1 - share) * max_tokens, from there in a straight line to 1 at max_tokens; 1 where it was `truncated`. This
    is the soft overlong punishment of DAPO (arXiv 2503.14476, section 3.4), its cache being share * max_tokens.
    """
    if truncated or length > max_tokens:
        return 1.0
    zone = share * max_tokens
    beyond = length - (max_tokens - zone)
    return beyond / zone if beyond > 0 else 0.0
