"""How every report becomes one HTML file: no script, no outside asset, every text escaped."""

from collections.abc import Callable
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dermo_ray.bench.statistics import Interval


def render(template: str, filters: dict[str, Callable[..., Any]], **values: Any) -> str:
    """The page of a template beside this module; `filters` come on top of those that all pages have."""
    environment = Environment(
        loader=PackageLoader("dermo_ray.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": "{:.3f}".format, "signed": signed} | filters
    style = resources.files("dermo_ray.report").joinpath("report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=Markup(style), **values)


def signed(number: float) -> str:
    """With three decimals and its sign, a true minus."""
    return f"{number:+.3f}".replace("-", "\N{MINUS SIGN}")


def interval(value: Interval | None) -> Markup:
    """A mean with its interval, or a dash where there is none."""
    if value is None:
        return Markup("&ndash;")
    return Markup('<span class="figure">{:.3f}</span> <span class="ci">{:.3f} to {:.3f}</span>').format(
        value.mean, value.low, value.high
    )
