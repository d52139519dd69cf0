"""DermoBench's eleven tasks: what they ask, and what answers are worth.

`TASKS` lists them. `dermo_ray.bench.released` reads their items from released files, `dermo_ray.bench.build` makes
items from a prepared folder. `prompt` is what to ask; tasks with several questions go by `begin` and `next_question`.
`score` and `aggregate` turn answers into measures; open tasks have judges instead, for which `comparison` takes texts
apart.
"""

from dermo_ray.bench.tasks.hierarchy import Walk, begin, next_question
from dermo_ray.bench.tasks.items import Answer, BenchItem, Facts, Items, Question, Scored, TaskId
from dermo_ray.bench.tasks.open_ended import Parts, comparison, parts
from dermo_ray.bench.tasks.prompts import prompt
from dermo_ray.bench.tasks.registry import TASKS, Task
from dermo_ray.bench.tasks.scoring import TaskResult, aggregate, score, score_all
from dermo_ray.bench.tasks.tally import Tally

__all__ = [
    "TASKS",
    "Answer",
    "BenchItem",
    "Facts",
    "Items",
    "Parts",
    "Question",
    "Scored",
    "Tally",
    "Task",
    "TaskId",
    "TaskResult",
    "Walk",
    "aggregate",
    "begin",
    "comparison",
    "next_question",
    "parts",
    "prompt",
    "score",
    "score_all",
]
