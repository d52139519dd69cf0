"""The one way a job starts: `python -m jobs.NAME [CONFIG.yaml] [key.sub=value ...]`.

A job module holds `CONFIG` (its settings model) and `run(config)`, and ends in `main(CONFIG, run, __doc__)`.
Exit status: 0 only where the job did its work, 2 for what the user can put right (one line on stderr), 130 when
interrupted; any other failure keeps its traceback.
"""

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from dermo_ray.config.base import Settings, describe, load, read
from dermo_ray.errors import UserError

SettingsT = TypeVar("SettingsT", bound=Settings)

USER_MISTAKE = 2
INTERRUPTED = 130


def main(
    model: type[SettingsT], run: Callable[[SettingsT], object], doc: str | None, argv: Sequence[str] | None = None
) -> NoReturn:
    """Read the settings from `argv` (default: the command line), run the job, and exit with its status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        if "--help" in arguments or "-h" in arguments:
            others = [argument for argument in arguments if argument not in ("--help", "-h")]
            print(usage(model, run.__module__, doc, read(*parse(others, model.words))))
            sys.exit(0)
        run(load(model, *parse(arguments, model.words)))
    except UserError as error:
        # Ray hands an exception of a task on as a subclass whose message is a traceback; its cause is the original
        complain(str(getattr(error, "cause", None) or error))
    except ValidationError as error:
        first = error.errors()[0]
        complain(f"{error.title}: {'.'.join(map(str, first['loc']))}: {first['msg']}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


def parse(arguments: Sequence[str], words: Sequence[str] = ()) -> tuple[Path | None, list[str]]:
    """Split a command line into the settings file, if one is named, and the overrides.

    `--key value`, or `--key` alone for what can be true, is another way to write an override of the first level.
    Where there are `words`, bare arguments are the values of these settings and not a file; where there are fewer of
    them than settings, of the last ones. Raises `UserError` for any other option and for a bare argument too many.
    """
    path: Path | None = None
    overrides, bare = [], []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument.startswith("-"):
            has_value = bool(remaining) and not remaining[0].startswith("-") and "=" not in remaining[0]
            overrides.append(_as_override(argument, remaining.pop(0) if has_value else "true"))
        elif "=" in argument:
            overrides.append(argument)
        elif words:
            bare.append(argument)
        elif path is not None:
            raise UserError(f"one settings file at most, not {path} and {argument}")
        else:
            path = Path(argument)
    if len(bare) > len(words):
        raise UserError(f"only {' and '.join(words)} can stand without a name, not {' '.join(bare)}")
    named = zip(words[len(words) - len(bare) :], bare, strict=True)
    return path, [*(f"{name}={json.dumps(value)}" for name, value in named), *overrides]


def _as_override(option: str, value: str) -> str:
    name = option.removeprefix("--").replace("-", "_")
    if not option.startswith("--") or not name.isidentifier():
        raise UserError(f"unknown option {option}: settings are written key.sub=value; --help lists them")
    return f"{name}={json.dumps(value)}"  # as text, so that "--steps" alone is no number


def usage(model: type[Settings], module: str, doc: str | None, given: Mapping[str, Any] | None = None) -> str:
    """What `--help` prints: how to call the job, what it does, and every setting, as it is `given` or by default."""
    width = min(shutil.get_terminal_size().columns, 120)
    name = module if module != "__main__" else f"jobs.{Path(sys.argv[0]).stem}"
    first = " ".join(f"[{word.upper()}]" for word in model.words) or "[CONFIG.yaml]"
    lines = [f"usage: python -m {name} {first} [key.sub=value ...]", "", (doc or "").strip(), "", "settings:"]
    for setting, kind, default, help_text in describe(model, given=given):
        lines.append(f"  {setting}: {kind} = {default}")
        lines += textwrap.wrap(help_text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def complain(message: str) -> NoReturn:
    """Print one line on stderr and exit with the status of a user's mistake."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(USER_MISTAKE)
