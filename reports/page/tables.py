"""The leaderboard as CSV (full precision) and as a LaTeX table (booktabs)."""

from __future__ import annotations

import pandas as pd

from bakeoff.reports.data.text import count, number, visible
from bakeoff.reports.statistics.leaderboard import records

_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "_": r"\_",
        "%": r"\%",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "−": "$-$",
        "–": "--",
    }
)


def csv(board: pd.DataFrame) -> str:
    """Every column at full precision; reading it back gives the same frame."""
    return str(board.to_csv(index=False, lineterminator="\n"))


def latex(board: pd.DataFrame) -> str:
    """One ``tabular`` per task: contestant, seeds, mean with its interval, IQM, KL, reward queries. Needs ``booktabs``."""
    parts = ["% needs \\usepackage{booktabs}"]
    for task, rows in board.groupby("task", sort=False) if len(board) else ():
        score = _tex(str(rows["metric"].iloc[0]))
        parts += [
            f"% task {_tex(str(task))}",
            r"\begin{tabular}{lrrrrr}",
            r"\toprule",
            f"{_tex(str(task))} & seeds & {score} (95\\,\\% interval) & IQM & KL & reward queries \\\\",
            r"\midrule",
        ]
        for row in records(rows):
            interval = (
                f" [{number(row['mean_low'])}, {number(row['mean_high'])}]" if pd.notna(row.get("mean_low")) else ""
            )
            cells = [
                row["label"],
                f"{row['seeds']}/{row['planned']}",
                number(row.get("mean")) + interval,
                number(row.get("iqm")),
                number(row.get("kl")),
                count(row.get("reward_queries")),
            ]
            parts.append(" & ".join(_tex(str(cell)) for cell in cells) + r" \\")
        parts += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(parts) + "\n"


def _tex(text: str) -> str:
    return visible(" ".join(text.split())).translate(_TEX)
