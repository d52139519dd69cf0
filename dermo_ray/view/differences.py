"""What changed from one text to another, word by word."""

import re
from difflib import SequenceMatcher
from typing import Literal

Kind = Literal["same", "removed", "added"]

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


def differences(before: str, after: str) -> list[tuple[Kind, str]]:
    """Runs of text in reading order: without those added they are `before`, without those removed `after`."""
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    found: list[tuple[Kind, str]] = []
    for _, old_start, old_end, new_start, new_end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        removed, added = "".join(old[old_start:old_end]), "".join(new[new_start:new_end])
        runs: list[tuple[Kind, str]] = (
            [("same", removed)] if removed == added else [("removed", removed), ("added", added)]
        )
        found += [(kind, text) for kind, text in runs if text]
    return found
