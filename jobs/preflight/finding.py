"""What a check found: how it stands, what was seen, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.markup import escape
from rich.table import Table

Status = Literal["pass", "warn", "fail"]

_STYLES: dict[Status, str] = {"pass": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    check: str
    """What was looked at, such as "model folder"."""
    status: Status
    found: str
    """What was seen, numbers and paths named."""
    fix: str = ""
    """What to do about it; nothing where the check passed."""

    @property
    def line(self) -> str:
        """Cause and fix as one line."""
        return f"{self.found}: {self.fix}" if self.fix else self.found


def table(findings: Iterable[Finding], title: str) -> Table:
    """The findings, one a row, with the fix beside what was found."""
    shown = Table("check", "", "found", "what to do", title=title, title_justify="left")
    for finding in findings:
        style = _STYLES[finding.status]
        status = f"[{style}]{finding.status}[/{style}]"
        shown.add_row(finding.check, status, escape(finding.found), escape(finding.fix))
    return shown
