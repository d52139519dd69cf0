"""An index of a run's scored completions in DuckDB: the numbers in memory, the texts left in their files.

Invariants: texts and tokens are read for one group at a time, so memory and time go with the number of completions and
not with their length; what a query sees is whole files, each as it was last written; queries may run side by side.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from dermo_ray.errors import UserError
from dermo_ray.run_directory import ROLLOUTS

_COMPLETIONS = """
CREATE TABLE completions (
    file VARCHAR, step INTEGER, version INTEGER, prompt_id VARCHAR, image VARCHAR, task VARCHAR, modality VARCHAR,
    label VARCHAR, tokens INTEGER, reward DOUBLE, dropped BOOLEAN, gated BOOLEAN, faults VARCHAR[]
)
"""

_INSERT = """
INSERT INTO completions
SELECT parse_filename(filename), step, version, prompt_id, image, task, modality,
       json_extract_string(ground_truth, '$.final_label'), tokens, reward, advantage IS NULL,
       gate < 1 AND len(gated) > 0, faults
FROM read_parquet(?, filename = true, union_by_name = true)
"""

_GROUPS = """
CREATE OR REPLACE TABLE groups AS
WITH by_prompt AS (
    SELECT step, prompt_id, any_value(file) AS file, any_value(image) AS image, any_value(task) AS task,
           any_value(modality) AS modality, any_value(label) AS label, min(version) AS version,
           count(*) AS completions, avg(reward) AS reward, min(reward) AS lowest, max(reward) AS highest,
           stddev_pop(reward) AS spread, avg(tokens) AS tokens, avg(gated::INTEGER) AS gated,
           avg((len(faults) > 0)::INTEGER) AS faulty, list_sort(list_distinct(flatten(list(faults)))) AS faults,
           bool_and(dropped) AS dropped
    FROM completions GROUP BY step, prompt_id
)
SELECT *, reward - lag(reward) OVER earlier AS change, lag(step) OVER earlier AS previous_step
FROM by_prompt WINDOW earlier AS (PARTITION BY prompt_id ORDER BY step)
"""


class RolloutIndex:
    """The completions and groups of the run directory `run`, as tables `completions` and `groups`.

    A group is the completions of one prompt at one step. Its `change` is the mean reward less that of the same prompt
    the last time it was sampled; NULL the first time.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / ROLLOUTS
        self.revision = 0
        """Counts the times that `refresh` found something new."""
        self._stamps: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._database = duckdb.connect(":memory:")
        self._database.execute(_COMPLETIONS)
        self._database.execute(_GROUPS)

    def refresh(self) -> None:
        """Take in files that are new, were replaced, or went. Raises `UserError` where one can't be read."""
        with self._lock:
            stamps = {path.name: _stamp(path) for path in sorted(self.folder.glob("[!.]*.parquet"))}
            outdated = [name for name, stamp in self._stamps.items() if stamps.get(name) != stamp]
            added = [str(self.folder / name) for name, stamp in stamps.items() if self._stamps.get(name) != stamp]
            if not (outdated or added):
                return
            cursor = self._database.cursor()
            try:
                cursor.begin()
                cursor.execute("DELETE FROM completions WHERE file IN (SELECT unnest(?::VARCHAR[]))", [outdated])
                if added:
                    cursor.execute(_INSERT, [added])
                cursor.execute(_GROUPS)
                cursor.commit()
            except duckdb.Error as error:
                cursor.rollback()
                reason = " ".join(str(error).split())[:200]
                raise UserError(
                    f"can't read the completions in {self.folder} ({reason}): remove the damaged file"
                ) from error
            self._stamps = stamps
            self.revision += 1

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a query over the two tables, each by column name."""
        cursor = self._database.cursor().execute(query, list(parameters))
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _stamp(path: Path) -> tuple[int, int]:
    """What differs once a file was replaced."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size
