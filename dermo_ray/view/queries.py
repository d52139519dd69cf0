"""What the viewer asks of a `RolloutIndex`: steps, groups by filter and order, and the history of a prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dermo_ray.view.index import RolloutIndex

ORDERS: Mapping[str, str] = MappingProxyType(
    {
        "newest": "step DESC, prompt_id",
        "lowest": "reward, step DESC, prompt_id",
        "highest": "reward DESC, step DESC, prompt_id",
        "changed": "abs(change) DESC NULLS LAST, step DESC, prompt_id",
        "fell": "change NULLS LAST, step DESC, prompt_id",
        "rose": "change DESC NULLS LAST, step DESC, prompt_id",
        "spread": "spread DESC, step DESC, prompt_id",
        "gated": "gated DESC, reward, step DESC, prompt_id",
        "faulty": "faulty DESC, reward, step DESC, prompt_id",
    }
)
"""The orders groups can be listed in, as SQL."""

_COLUMNS = """step, prompt_id, image, task, modality, label, version, completions, reward, lowest, highest, spread,
tokens, gated, faulty, faults, dropped, change, previous_step"""


@dataclass(frozen=True)
class Filters:
    """Which groups are meant; what is None or empty leaves none out."""

    step: int | None = None
    task: str | None = None
    modality: str | None = None
    label: str | None = None
    """The reference diagnosis."""
    fault: str | None = None
    """At least one completion has this fault."""
    prompt: str = ""
    """Part of the prompt's id, whatever its letter case."""
    gated: bool = False
    """At least one completion lost reward to the gate."""
    dropped: bool = False
    """The group was left out of its update."""

    def condition(self) -> tuple[str, list[Any]]:
        """As SQL, with its parameters."""
        tests: list[tuple[str, Any]] = [
            ("step = ?", self.step),
            ("task = ?", self.task),
            ("modality = ?", self.modality),
            ("label = ?", self.label),
            ("list_contains(faults, ?)", self.fault),
            ("contains(lower(prompt_id), lower(?))", self.prompt or None),
            ("(gated > 0) = ?", self.gated or None),
            ("dropped = ?", self.dropped or None),
        ]
        given = [(test, value) for test, value in tests if value is not None]
        return " AND ".join(test for test, _ in given) or "true", [value for _, value in given]


def groups(index: RolloutIndex, filters: Filters, order: str, limit: int, offset: int = 0) -> dict[str, Any]:
    """`limit` groups from `offset` on, in one of `ORDERS`, and `total`, how many there are."""
    condition, values = filters.condition()
    rows = index.rows(
        f"SELECT {_COLUMNS}, count(*) OVER () AS total FROM groups WHERE {condition} "
        f"ORDER BY {ORDERS[order]} LIMIT ? OFFSET ?",
        [*values, limit, offset],
    )
    total = rows[0]["total"] if rows else 0
    return {"total": total, "groups": [{k: v for k, v in row.items() if k != "total"} for row in rows]}


def steps(index: RolloutIndex) -> list[dict[str, Any]]:
    """Each step with its groups and completions, and means over completions of reward, gate and faults."""
    return index.rows(
        "SELECT step, count(*) AS groups, sum(completions)::BIGINT AS completions, "
        "sum(reward * completions) / sum(completions) AS reward, "
        "sum(gated * completions) / sum(completions) AS gated, "
        "sum(faulty * completions) / sum(completions) AS faulty, "
        "count(*) FILTER (dropped) AS dropped "
        "FROM groups GROUP BY step ORDER BY step"
    )


def choices(index: RolloutIndex) -> dict[str, list[dict[str, Any]]]:
    """What the filters can be set to: each value with the number of its groups, the most frequent first."""
    return {
        column: index.rows(
            f"SELECT {column} AS value, count(*) AS groups FROM groups WHERE {column} IS NOT NULL "
            f"GROUP BY {column} ORDER BY groups DESC, value"
        )
        for column in ("task", "modality", "label")
    } | {
        "fault": index.rows(
            "SELECT value, count(*) AS groups FROM (SELECT unnest(faults) AS value FROM groups) "
            "GROUP BY value ORDER BY groups DESC, value"
        )
    }


def history(index: RolloutIndex, prompt_id: str) -> list[dict[str, Any]]:
    """Every time a prompt was sampled, by step."""
    return index.rows(
        "SELECT step, version, completions, reward, lowest, highest, gated, faulty, dropped FROM groups "
        "WHERE prompt_id = ? ORDER BY step",
        [prompt_id],
    )


def file_of(index: RolloutIndex, step: int, prompt_id: str) -> str | None:
    """The name of the file that holds a group, None where there is no such group."""
    rows = index.rows("SELECT file FROM groups WHERE step = ? AND prompt_id = ?", [step, prompt_id])
    return rows[0]["file"] if rows else None
