"""The page and the default of `rloo` follow from what the study measured."""

import json

from bakeoff.algos.rloo import RLOOConfig
from bakeoff.benchmarks.studies import rloo_clip
from bakeoff.benchmarks.studies.page_tables import with_table


def test_page_and_default_are_what_was_measured() -> None:
    summary = json.loads(rloo_clip.SUMMARY.read_text(encoding="utf-8"))
    page = rloo_clip.PAGE.read_text(encoding="utf-8")
    assert with_table(page, "rloo_clip.py", rloo_clip.table(summary)) == page
    assert RLOOConfig().clip == rloo_clip.chosen(summary)
    assert len(summary["rows"]) == len(rloo_clip.CLIPS) * len(rloo_clip.CASES)
