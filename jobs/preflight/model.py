"""Whether a model folder is complete and can do what the settings ask, from its small files and their headers alone."""

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from dermo_ray.config.model import LoraSettings
from dermo_ray.config.pools import EngineSettings
from jobs.preflight.finding import Finding

CHECK = "model folder"

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


def check_model(folder: Path, engines: Mapping[str, EngineSettings]) -> Iterator[Finding]:
    """Everything that can be seen to be wrong with the model at `folder`; one finding that passes where nothing is."""
    findings = [*_files(folder), *_weights(folder)]
    config = read_config(folder)
    if config is not None:
        findings += [finding for name, engine in engines.items() for finding in _engine(config, name, engine)]
    if not findings:
        gib = sum(map(_size, weight_files(folder))) / 2**30
        kind = (config or {}).get("model_type", "a model")
        findings.append(Finding(CHECK, "pass", f"{folder}: {kind}, {gib:.2f} GiB of weights"))
    yield from findings


def read_config(folder: Path) -> dict[str, Any] | None:
    """The model's `config.json`; None where it is not there or no JSON object."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, those that are missing included."""
    index = folder / _INDEX
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return [folder / name for name in names]
    return [folder / _SINGLE] if (folder / _SINGLE).is_file() else sorted(folder.glob("pytorch_model*.bin"))


def parameters(folder: Path) -> int:
    """How many numbers the safetensors files hold, from their headers alone."""
    headers = (_header(path) for path in weight_files(folder) if path.suffix == ".safetensors")
    return sum(prod(t["shape"]) for header in headers for t in header.values() if "shape" in t)


def lora_parameters(config: Mapping[str, Any], lora: LoraSettings) -> int:
    """How many numbers an adapter on the language model has: rank * (in + out) for each layer that gets one."""
    text = config.get("text_config", config)
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    heads = text["num_attention_heads"]
    size = text.get("head_dim") or hidden // heads
    queries, keys = heads * size, text.get("num_key_value_heads", heads) * size
    both = {
        "q_proj": hidden + queries,
        "k_proj": hidden + keys,
        "v_proj": hidden + keys,
        "o_proj": queries + hidden,
        "gate_proj": hidden + inner,
        "up_proj": hidden + inner,
        "down_proj": inner + hidden,
    }
    return int(text["num_hidden_layers"] * lora.rank * sum(both.get(name, 0) for name in lora.targets))


def _files(folder: Path) -> Iterator[Finding]:
    if not (folder / "config.json").is_file():
        yield _fail(f"{folder} holds no model, config.json is missing", "model.path is the folder with the weights")
        return
    if read_config(folder) is None:
        yield _fail(f"{folder}/config.json is no JSON object", "copy the model again")
    if not _any(folder, "processor_config.json", "preprocessor_config.json"):
        yield _fail(f"{folder} has no processor", "copy preprocessor_config.json and the tokenizer beside the weights")
    if not _any(folder, "tokenizer.json", "vocab.json", "tokenizer.model"):
        yield _fail(f"{folder} has no tokenizer", "copy tokenizer.json and tokenizer_config.json beside the weights")
    elif not _has_template(folder):
        yield _fail(
            f"{folder} has no chat template", "copy chat_template.jinja, or take the model's instruction-tuned variant"
        )


def _weights(folder: Path) -> Iterator[Finding]:
    files = weight_files(folder)
    if not files and (folder / "config.json").is_file():
        yield _fail(f"{folder} has no weights", f"copy {_SINGLE}, or {_INDEX} and the files it names")
    for path in files:
        if not path.is_file():
            yield _fail(f"{path} is missing, {_INDEX} names it", "copy the rest of the model")
        elif path.suffix == ".safetensors" and (fault := _fault(path)) is not None:
            yield _fail(f"{path} {fault}", "copy it again")


def _fault(path: Path) -> str | None:
    """What is wrong with a safetensors file, judged by its header."""
    size = _size(path)
    with path.open("rb") as file:
        if file.read(18) == b"version https://gi":
            return "is a pointer of Git LFS, not the weights"
    try:
        header = _header(path)
        end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError):
        return "is no safetensors file"
    expected = 8 + _header_length(path) + end
    return f"has {size:,} bytes, not {expected:,}: it was cut off" if size != expected else None


def _engine(config: Mapping[str, Any], name: str, engine: EngineSettings) -> Iterator[Finding]:
    text = config.get("text_config", config)
    setting = f"{name}.engine" if name else "engine"
    longest = text.get("max_position_embeddings")
    if longest is not None and engine.max_model_len > longest:
        yield _fail(
            f"{setting}.max_model_len={engine.max_model_len} and the model reads {longest} tokens at most",
            f"lower {setting}.max_model_len",
        )
    heads = text.get("num_attention_heads")
    if heads is not None and heads % engine.tensor_parallel_size:
        yield _fail(
            f"{setting}.tensor_parallel_size={engine.tensor_parallel_size} does not divide the model's {heads} heads",
            "choose a divisor",
        )


def _has_template(folder: Path) -> bool:
    if _any(folder, "chat_template.jinja", "chat_template.json"):
        return True
    return any(
        "chat_template" in json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("tokenizer_config.json", "processor_config.json")
        if (folder / name).is_file()
    )


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file (huggingface.co/docs/safetensors): its length in 8 bytes, then JSON."""
    length = _header_length(path)
    if length > _size(path):
        raise ValueError("the header is longer than the file")
    with path.open("rb") as file:
        file.seek(8)
        header: dict[str, Any] = json.loads(file.read(length))
    return header


def _header_length(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _size(path: Path) -> int:
    return path.stat().st_size


def _any(folder: Path, *names: str) -> bool:
    return any((folder / name).is_file() for name in names)


def _fail(found: str, fix: str) -> Finding:
    return Finding(CHECK, "fail", found, fix)
