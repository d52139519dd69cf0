"""A small byte-level BPE tokenizer with Qwen's special tokens and chat template.

It is trained on the text the phantoms' tasks use, so that a whole field name, value or common word is one token and
completions stay short. Being byte-level, it encodes any text without an unknown token.
"""

import itertools
import json
from collections.abc import Iterator

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dermo_ray import prompts
from dermo_ray.completion import Completion, render
from dermo_ray.data import wording
from dermo_ray.morphology import SKINCON_FEATURES, SKINCON_KEY
from dermo_ray.phantom.diagnoses import DIAGNOSES
from dermo_ray.phantom.sampling import sample_morphology
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

# What BPE may merge: the way from one JSON value to the next (closing quote, comma, key, opening quote), from the end
# of one block to the beginning of the next, a phrase with the comma before it. So a field takes two tokens, its key and
# its value, and a finding and a label one each: short completions are written faster and have fewer joints at which
# sampling can go wrong.
_PIECES = Regex(
    r'(?:", ")?(?:[A-Za-z][^"{}\[\]<>:,]*": ?["{\[]*)+'
    r'|", "[^"{}\[\]<>:,]*'
    r'|[."}\]]*</\w+>\s?(?:<\w+>[{"]*)?|<\w+>'
    r"|[ ,]{0,2}[A-Za-z][^\"{}\[\]<>:,;.\n]*"
    r"|[^\w\s<]+|\s+|\S"
)

_EXAMPLES = 600
"""Completions about sampled phantoms in the tokenizer's training text."""

_HAM10000_CODES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
_DERMOGPT_EXAMPLE = "SJS/TEN"
"""The diagnosis of DermoGPT's published task3 record, a long label."""


def build_tokenizer(vocabulary_size: int) -> PreTrainedTokenizerFast:
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


def _labels() -> list[str]:
    """The phantoms' diagnoses, HAM10000's seven and DermoGPT's example, in the order of the default tree."""
    taxonomy = Taxonomy.load()
    written = {taxonomy.canonical(name) for name in (*DIAGNOSES, *_HAM10000_CODES, _DERMOGPT_EXAMPLE)}
    return [label for label in taxonomy.labels if label in written]


def _corpus() -> Iterator[str]:
    """What the tasks of phantoms are written in: prompts, completions about sampled morphologies, terms, labels."""
    for _ in range(20):
        yield from prompts.templates("brief")
        yield "assistant\nuser\nsystem\n"
        yield from (f"<final_diagnosis>{label}</final_diagnosis>" for label in _labels())
        yield json.dumps({SKINCON_KEY: SKINCON_FEATURES})
    yield from prompts.templates("full")
    rng = np.random.default_rng(0)
    for diagnosis in itertools.islice(itertools.cycle(DIAGNOSES.values()), _EXAMPLES):
        morphology = sample_morphology(diagnosis.name, rng)
        sentence, paragraph = wording.reasoning(morphology), wording.description(morphology, diagnosis.modality)
        yield render(Completion("task3", reasoning=sentence, morphology=morphology, diagnosis=diagnosis.name))
        yield render(Completion("task1", morphology=morphology, description=paragraph))
