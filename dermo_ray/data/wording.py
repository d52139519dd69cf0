"""A morphology in a sentence: plain, short and always the same for the same findings; and what free text may hold.

Invariant: a sentence names exactly the findings that are not absent, each in the words of its vocabulary.
"""

from dermo_ray.completion import parse
from dermo_ray.morphology import Modality, Morphology

_VESSELS = "Vascular Structures"
_REGRESSION = "Regression Structures"


def findings(morphology: Morphology) -> list[str]:
    """Each finding that is not absent, as a phrase, in the order of the vocabulary."""
    if morphology.schema == "skincon":
        return [feature.replace("(", " (").lower() for feature in sorted(morphology.features)]
    return [_phrase(name, value) for name, value in morphology.fields.items() if value != "absent"]


def _phrase(name: str, value: str) -> str:
    if value == "present":
        return name.lower()
    if name == _VESSELS:
        return f"{value} vessels"
    if name == _REGRESSION:
        return f"regression with {'blue and white areas' if value == 'combinations' else value}"
    return f"{value} {name.lower()}"


def reasoning(morphology: Morphology) -> str:
    """One sentence for the reasoning block of a completion."""
    seen = findings(morphology)
    return f"Visible: {', '.join(seen)}." if seen else "Nothing specific is visible."


def description(morphology: Morphology, modality: Modality) -> str:
    """One paragraph for a task1 completion; it names no disease."""
    seen = ", ".join(findings(morphology)) or "no specific finding"
    return f"{modality.capitalize()} image: {seen}."


def is_free_text(text: str) -> bool:
    """Whether `text` can stand in a completion: neither empty nor padded, without tags or placeholder tokens."""
    read = parse(f"<reasoning>{text}</reasoning>", "task3")
    return read.reasoning == text and "forbidden_token" not in read.faults
