"""Reports of a run: one HTML file that needs nothing else, light and dark, readable without colour or a mouse."""

from dermo_ray.report.html import demo_report, write_report
from dermo_ray.report.summary import Gain, Rates, Summary

__all__ = ["Gain", "Rates", "Summary", "demo_report", "write_report"]
