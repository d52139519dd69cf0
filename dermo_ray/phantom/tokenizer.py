"""A small byte-level BPE tokenizer with Qwen's special tokens and chat template.

It is trained on the text the phantoms' tasks use, so that a whole field name, value or common word is one token and
completions stay short. Being byte-level, it encodes any text without an unknown token.
"""

import itertools
import json
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dermo_ray import prompts
from dermo_ray.morphology import DERM7PT_FIELDS, DERM7PT_KEY, SKINCON_FEATURES, SKINCON_KEY
from dermo_ray.taxonomy import Taxonomy

END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = (
    END_OF_TEXT, "<|im_start|>", END_OF_TURN, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

CHAT_TEMPLATE = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n"
    "{%- if message.content is string %}{{ message.content }}"
    "{%- else %}{%- for part in message.content %}"
    "{%- if part.type in ('image', 'image_url') or 'image' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif 'text' in part %}{{ part.text }}{%- endif %}"
    "{%- endfor %}{%- endif %}<|im_end|>\n"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}"
)

# A JSON key up to its value's opening quote is one piece, so is the join of two entries, a tag, a word with its space.
_PIECES = Regex(r'[A-Za-z][^"{}\[\]<>:,]*": ?["{\[]*|", "|</?\w+>\s?|[ ]?[^\s"<>{}\[\]]+|[^\w\s]+|\s+')


def build_tokenizer(vocabulary_size: int = 1280) -> PreTrainedTokenizerFast:
    """Train the tokenizer; deterministic, and `len(tokenizer) <= vocabulary_size`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def _corpus() -> Iterator[str]:
    """Every term of the closed vocabularies in the places where completions use it, and the prompts themselves."""
    yield from itertools.chain.from_iterable(itertools.repeat(text, 20) for text in prompts.templates("brief"))
    yield from prompts.templates("full")
    yield from itertools.repeat("assistant\nuser\nsystem\n", 20)
    for _ in range(20):
        yield from (f"<final_diagnosis>{label}</final_diagnosis>" for label in Taxonomy.load().labels)
        yield from _as_json(SKINCON_KEY, [list(SKINCON_FEATURES)])
        yield from _as_json(DERM7PT_KEY, ({n: v for n in DERM7PT_FIELDS} for v in _all_values()))
        yield from (f" {name.lower()}: {value};" for name, values in DERM7PT_FIELDS.items() for value in values)
        yield from (f"<reasoning> {name.lower()}, {name}.</reasoning>" for name in SKINCON_FEATURES)


def _all_values() -> Iterable[str]:
    return dict.fromkeys(itertools.chain.from_iterable(DERM7PT_FIELDS.values()))


def _as_json(key: str, contents: Iterable[object]) -> Iterator[str]:
    yield from (f"<morph>{json.dumps({key: content})}</morph>" for content in contents)
