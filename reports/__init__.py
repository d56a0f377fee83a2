"""Reports: tidy frames, statistics, figures and the report. Imports neither torch nor transformers."""

from bakeoff.reports.figures import KINDS, write_figure
from bakeoff.reports.page.report import write_report
from bakeoff.reports.results import Results

__all__ = ["KINDS", "Results", "write_figure", "write_report"]
