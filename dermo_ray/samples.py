"""What TensorBoard shows of an update's completions: how rewards are spread, and some of them beside their image."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dermo_ray.rollouts import ScoredCompletion

_WIDTH, _HEIGHT = 960, 320  # pixels
_MARGIN, _IMAGE = 16, 288  # pixels
_INK, _MUTED, _PAPER = "#1f2328", "#5b6470", "#ffffff"


def reward_values(rows: Sequence[ScoredCompletion]) -> dict[str, list[float]]:
    """The reward and each of its terms, of every completion that it applies to; named as in the metrics."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        values["reward/total"].append(row.reward)
        for term, value in row.terms.items():
            values[f"reward/{term}"].append(value)
    return dict(values)


def sample_cards(rows: Sequence[ScoredCompletion], data: Path) -> Mapping[str, Image.Image]:
    """The completions with the highest, the middle and the lowest reward, each drawn beside its image.

    Images are read from the prepared folder `data`. No rows, no cards.
    """
    ranked = sorted(rows, key=lambda row: (row.reward, row.prompt_id, row.sample))
    if not ranked:
        return {}
    chosen = {"highest": ranked[-1], "middle": ranked[len(ranked) // 2], "lowest": ranked[0]}
    return {name: _card(row, data / row.image) for name, row in chosen.items()}


def _card(row: ScoredCompletion, image: Path) -> Image.Image:
    card = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    with Image.open(image) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((_IMAGE, _IMAGE))
    card.paste(picture, (_MARGIN, _MARGIN))
    pen, large, small = ImageDraw.Draw(card), ImageFont.load_default(18), ImageFont.load_default(14)
    left = _MARGIN * 2 + _IMAGE
    terms = ", ".join(f"{name} {value:.2f}" for name, value in row.terms.items())
    faults = f"; faults: {', '.join(row.faults)}" if row.faults else ""
    pen.text((left, _MARGIN), f"reward {row.reward:.3f} (gate {row.gate:.2f})", fill=_INK, font=large)
    reference = f"reference: {row.truth.final_label or 'none'}; prompt {row.prompt_id}, version {row.version}"
    lines = [
        *_lines(reference, _WIDTH - left - _MARGIN, small),
        *_lines(f"{terms}{faults}", _WIDTH - left - _MARGIN, small),
    ]
    top = _MARGIN + 28
    pen.multiline_text((left, top), "\n".join(lines), fill=_MUTED, font=small, spacing=3)
    top += 20 * len(lines) + 10
    text = [line for part in row.text.splitlines() for line in _lines(part, _WIDTH - left - _MARGIN, small)]
    room = (_HEIGHT - _MARGIN - top) // 20
    shown = text if len(text) <= room else [*text[: room - 1], f"... ({len(row.text)} characters)"]
    pen.multiline_text((left, top), "\n".join(shown), fill=_INK, font=small, spacing=3)
    return card


def _lines(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """`text` in lines of at most `width` pixels; a longer word is cut."""
    lines = [""]
    for word in text.split():
        while font.getlength(word) > width:
            fits = next(n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width)
            lines += [word[:fits], ""]
            word = word[fits:]
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line]
