"""From which lead on a report calls one contestant ahead of another, and how often it is wrong or right about that.

    python benchmarks/studies/comparison_errors.py choose     # reports/statistics/critical_values.py, some minutes
    python benchmarks/studies/comparison_errors.py measure    # docs/comparison_errors.json and the table in docs/reports.md

``choose`` simulates experiments in which some contestants are equally good (``bakeoff.reports.statistics.comparison_errors``
lists the cases), and takes for each number of contestants and seeds the lead, in standard errors, that 4.5 % of the
experiments of the worst case exceed. ``measure`` draws new experiments, and writes how often the chosen values are
exceeded and how often a true gap is found.
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bakeoff.benchmarks.studies import page_tables
from bakeoff.reports.statistics import comparison_errors as errors
from bakeoff.reports.statistics.comparisons import critical_t

ROOT = Path(__file__).resolve().parents[2]
VALUES = ROOT / "reports" / "statistics" / "critical_values.py"
SUMMARY, PAGE = ROOT / "docs" / "comparison_errors.json", ROOT / "docs" / "reports.md"
CONTESTANTS, SEEDS = (2, 3, 4, 5, 7, 10, 16), (2, 3, 4, 5, 7, 10, 20)
SHOWN_CONTESTANTS, SHOWN_SEEDS = (2, 3, 5, 7, 10, 16), (3, 5, 10)
LEVEL = 0.045
"""Below .05, so that the error of the simulation lifts no rate above it."""
GAPS = (3, 5, 8)
"""Seed deviations."""


def generator(*parts: object) -> np.random.Generator:
    """A generator that depends on the names of what it is for."""
    return np.random.default_rng(zlib.crc32(repr(parts).encode()))


def choose(runs: int) -> dict[int, dict[int, float]]:
    """Critical values by seeds and contestants. More contestants never lower one."""
    table: dict[int, dict[int, float]] = {}
    for seeds in SEEDS:
        table[seeds], highest = {}, 0.0
        for contestants in CONTESTANTS:
            rng = generator("choose", contestants, seeds)
            for case in errors.cases(contestants):
                found = errors.false_claims(case, contestants, seeds, rng=rng, runs=runs)
                highest = max(highest, *(float(np.quantile(ratios, 1 - LEVEL)) for ratios in found))
            table[seeds][contestants] = math.ceil(100 * highest) / 100
            print(seeds, contestants, table[seeds][contestants], flush=True)
    return table


def write_values(table: Mapping[int, Mapping[int, float]]) -> None:
    """The module that reports read."""
    rows = "\n".join(
        f"    {seeds}: {{{', '.join(f'{k}: {v}' for k, v in row.items())}}}," for seeds, row in table.items()
    )
    top = "Made by ``python benchmarks/studies/comparison_errors.py choose``; not to be edited."
    below = "By seeds and contestants: the lead, in its standard errors, from which on it is beyond noise."
    VALUES.write_text(f'"""{top}"""\n\nCRITICAL = {{\n{rows}\n}}\n"""{below}"""\n', encoding="utf-8")


def measure(runs: int) -> list[dict[str, Any]]:
    """One row for each number of contestants and seeds, rates as shares."""
    rows = []
    for seeds in SHOWN_SEEDS:
        for contestants in SHOWN_CONTESTANTS:
            rng, bar = generator("measure", contestants, seeds), critical_t(contestants, seeds)
            rates = {case: _rates(case, contestants, seeds, bar, rng, runs) for case in errors.cases(contestants)}
            worst = max(rates, key=lambda case: rates[case].best)
            normal = [case for case in rates if case.shape == "normal"]
            failing = [
                _rates(case._replace(shape=errors.RARE_FAILURE), contestants, seeds, bar, rng, runs) for case in normal
            ]
            found = {
                str(gap): float((errors.true_leads(contestants, seeds, gap, rng=rng, runs=runs) > bar).mean())
                for gap in GAPS
            }
            rows.append(
                {"seeds": seeds, "contestants": contestants, "critical": bar, "false": rates[worst].best,
                 "worst": " / ".join(worst), "false_normal": max(rates[case].best for case in normal),
                 "false_reference": max(max(rate.first, rate.last) for rate in rates.values()),
                 "false_failing": max(rate.best for rate in failing), "found": found}
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


class _Rates(NamedTuple):
    best: float
    first: float
    last: float


def _rates(case: errors.Case, contestants: int, seeds: int, bar: float, rng: np.random.Generator, runs: int) -> _Rates:
    found = errors.false_claims(case, contestants, seeds, rng=rng, runs=runs)
    return _Rates(*(float((ratios > bar).mean()) for ratios in found))


def table(summary: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    false = ("normal", "worst", "reference", "one in ten fails")
    head = ["seeds", "contestants", "a lead counts from", *(f"false: {name}" for name in false)]
    head += [f"finds {gap} deviations" for gap in GAPS]
    rows = []
    for row in summary["rows"]:
        cells = [str(row["seeds"]), str(row["contestants"]), f"{row['critical']:.2f} s.e."]
        cells += [f"{100 * row[name]:.1f} %" for name in ("false_normal", "false", "false_reference", "false_failing")]
        cells += [f"{100 * row['found'][str(gap)]:.0f} %" for gap in GAPS]
        rows.append(cells)
    return page_tables.table(head, rows)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "measure"))
    parser.add_argument("--runs", type=int, default=10_000, help="experiments of each case")
    given = parser.parse_args()
    if given.what == "choose":
        write_values(choose(given.runs))
        return
    summary = {"runs": given.runs, "rows": measure(given.runs)}
    SUMMARY.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page_tables.with_table(page, "comparison_errors.py", table(summary)), encoding="utf-8")


if __name__ == "__main__":
    main()
