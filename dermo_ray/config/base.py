"""The base of every settings model, and how a YAML file plus `key.sub=value` overrides becomes one.

Invariants: an unknown key is an error that names the nearest known one; a loaded model is complete and checked,
so that no job finds a bad setting after it has begun to work.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from dermo_ray.errors import UserError

AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
"""A path that means the same in every process of a cluster, whatever folder it was started in."""


class Settings(BaseModel):
    """A frozen group of settings; the docstring under a field is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    words: ClassVar[tuple[str, ...]] = ()
    """Settings of a job that bare words on its command line stand for; such a job takes no settings file."""

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults_of_groups(cls, data: Any) -> Any:
        """A group that is given in part keeps the other defaults of its owner, which may not be those of its class."""
        if not isinstance(data, dict):
            return data
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        groups = {
            name: _merged(default.model_dump(exclude_unset=True), data[name])
            for name, default in defaults.items()
            if isinstance(default, Settings) and isinstance(data.get(name), dict)
        }
        return data | groups


SettingsT = TypeVar("SettingsT", bound=Settings)


def load(model: type[SettingsT], path: Path | None, overrides: Sequence[str] = ()) -> SettingsT:
    """Read `path` (YAML, may be None), apply `key.sub=value` overrides (values are YAML), and validate.

    Raises `UserError`, one line, for a missing or malformed file, an unknown key or a value of the wrong type.
    """
    return validate(model, read(path, overrides))


def validate(model: type[SettingsT], tree: Mapping[str, Any]) -> SettingsT:
    """The settings in `tree`, as `read` gives it. Raises `UserError`, one line, as `load` does."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise UserError("; ".join(_explain(model, detail) for detail in error.errors())) from error


def read(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that `path` (YAML, may be None) and `key.sub=value` overrides give, not yet checked by a model.

    Raises `UserError` for a missing or malformed file and a malformed override.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        if not path.is_file():
            raise UserError(f"no such settings file: {path}")
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(tree, dict):
            raise UserError(f"{path} must hold a mapping of settings")
    for override in overrides:
        _apply(tree, override)
    return tree


def describe(
    model: type[Settings], prefix: str = "", default: Settings | None = None, given: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, str, str, str]]:
    """Every leaf setting as (dotted name, type, value, help), in the order written.

    The value is the default, below a group that of the group's own default, `default`; or what `given` (see `read`)
    makes of it, settings that follow from others included. Raises `ValidationError` where a given group is wrong.
    """
    given = given or {}
    for name, info in model.model_fields.items():
        value = getattr(default, name) if default is not None else info.get_default(call_default_factory=True)
        nested = _settings_in(info.annotation)
        if nested is not None:
            below = given.get(name)
            if isinstance(below, dict) and all(shown != "required" for _, _, shown, _ in describe(nested)):
                value, below = nested.model_validate(below), None
            group = value if isinstance(value, Settings) else None
            yield from describe(nested, f"{prefix}{name}.", group, below if isinstance(below, dict) else None)
            continue
        required = default is None and info.is_required() and name not in given
        shown = "required" if required else _as_yaml(given.get(name, value))
        yield f"{prefix}{name}", _type_name(info.annotation), shown, " ".join((info.description or "").split())


def dump(settings: Settings, path: Path) -> None:
    """Write `settings` as YAML that `load` reads back to an equal model."""
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def _merged(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    merged = defaults | given
    for name in defaults.keys() & given.keys():
        if isinstance(defaults[name], dict) and isinstance(given[name], dict):
            merged[name] = _merged(defaults[name], given[name])
    return merged


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"an override has the form key.sub=value, not {override!r}")
    *parents, leaf = key.split(".")
    node: Any = tree
    for parent in parents:
        node = _child(node, parent, override)
    if not isinstance(node, dict):
        raise UserError(f"{override!r}: {parents[-1]} is a list; name an entry and its setting, as in 0.{leaf}")
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{override!r}: the value is not valid YAML") from error


def _child(node: Any, name: str, override: str) -> Any:
    """What lies below `node`: a setting's settings, made if they are not there, or an entry of a list by its number."""
    if isinstance(node, list):
        if not name.isdigit() or int(name) >= len(node):
            raise UserError(f"{override!r}: the list has entries 0 to {len(node) - 1}, not {name}")
        return node[int(name)]
    child = node.setdefault(name, {})
    if child is None:
        child = node[name] = {}
    if not isinstance(child, dict | list):
        raise UserError(f"{override!r}: {name} is a single value and has no settings below it")
    return child


def _explain(model: type[Settings], detail: ErrorDetails) -> str:
    names = [str(part) for part in detail["loc"]]
    dotted = ".".join(names)
    if detail["type"] == "extra_forbidden":
        owner: type[Settings] | None = model
        for name in (part for part in detail["loc"][:-1] if isinstance(part, str)):
            field = owner.model_fields.get(name) if owner is not None else None
            owner = _settings_in(field.annotation) if field is not None else None
        known = list(owner.model_fields) if owner is not None else []
        near = difflib.get_close_matches(names[-1], known, n=1, cutoff=0.5)
        meant = [*_beside(model, names), *(".".join([*names[:-1], name]) for name in near)]
        hint = f"did you mean {meant[0]}?" if meant else f"known here: {', '.join(known)}"
        return f"unknown setting {dotted}: {hint}"
    if detail["type"] == "missing":
        return f"the setting {dotted} is required"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{dotted}: {message} (got {detail['input']!r})" if dotted else message


def _beside(model: type[Settings], names: Sequence[str]) -> list[str]:
    """The settings of that very name in groups of the job that are called much like the one given: `reward.extra`."""
    if len(names) != 2:
        return []
    groups = {name: owner for name, field in model.model_fields.items() if (owner := _settings_in(field.annotation))}
    alike = difflib.get_close_matches(names[0], groups, n=3, cutoff=0.7)
    return [f"{group}.{names[1]}" for group in alike if names[1] in groups[group].model_fields]


def _settings_in(annotation: Any) -> type[Settings] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return candidate
    return None


def _type_name(annotation: Any) -> str:
    """The type as a person would write it: what a checked path is, the values that may be chosen from."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " | ".join(map(_type_name, arguments))
    if annotation in (None, NoneType):
        return "null"
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(_type_name, arguments))}]" if arguments else name


def _as_yaml(value: Any) -> str:
    text = (
        yaml.safe_dump(value, default_flow_style=True)
        if isinstance(value, str | int | float | list | dict)
        else str(value)
    )
    return text.removesuffix("...\n").strip()
