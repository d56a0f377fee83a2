"""What came of it: tidy frames, statistics, figures and the report. Imports neither torch nor transformers."""

from bakeoff.reports.data.results import Results
from bakeoff.reports.figures import KINDS, write_figure
from bakeoff.reports.page.report import write_report

__all__ = ["KINDS", "Results", "write_figure", "write_report"]
