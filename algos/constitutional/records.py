"""What is kept of chains and choices: rows for the cell's folder, and figures that give a degenerate critic away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from bakeoff.algos.constitutional.chain import Round
from bakeoff.algos.constitutional.feedback import Judgment, verdict_scores


def chain_figures(responses: Sequence[str], rounds: Sequence[Round]) -> dict[str, float]:
    """Shares over chains, by round where a number stands at the end.

    Returns:
        `revision_rate_k`: revisions of round k that differ from the text before them (white space aside); `empty_critiques` and
        `empty_revisions`: over all rounds; `repeated_critiques`: critiques that repeat another one of their batch word for word;
        `critique_words`: mean length.
    """
    figures: dict[str, float] = {}
    before: Sequence[str] = responses
    critiques, empty = list[str](), 0
    for number, one in enumerate(rounds, 1):
        changed = [bool(new.strip()) and new.split() != old.split() for new, old in zip(one.texts, before, strict=True)]
        figures[f"revision_rate_{number}"] = sum(changed) / len(changed)
        empty += sum(not text.strip() for text in one.texts)
        critiques += one.critiques
        before = one.kept
    count = len(critiques)
    figures["empty_revisions"] = empty / count
    figures["empty_critiques"] = sum(not text for text in critiques) / count
    figures["repeated_critiques"] = 1 - len(set(critiques)) / count
    figures["critique_words"] = sum(len(text.split()) for text in critiques) / count
    return figures


def chain_records(
    indices: Sequence[int],
    prompts: Sequence[str],
    responses: Sequence[str],
    resampled: Sequence[str] | None,
    rounds: Sequence[Round],
    preferred_N: Tensor | None,
    verdicts_NV: Tensor | None,
) -> list[dict[str, Any]]:
    """One row per chain; ``texts`` is what judges may score.

    Args:
        indices: which prompt each is.
        prompts: the prompts.
        responses: the first answers.
        resampled: the control's answers.
        rounds: critiques and revisions.
        preferred_N: the critic's probability that the last revision is better than the response.
        verdicts_NV: its verdicts on the response.
    """
    scores = None if verdicts_NV is None else verdict_scores(verdicts_NV).tolist()
    rows = []
    for i, (index, prompt, response) in enumerate(zip(indices, prompts, responses, strict=True)):
        texts = {"response": response, **({} if resampled is None else {"resampled": resampled[i]})}
        texts |= {f"revision_{number}": one.kept[i] for number, one in enumerate(rounds, 1)}
        rows.append(
            {
                "kind": "chain",
                "prompt": prompt,
                "prompt_index": index,
                "texts": texts,
                "rounds": [
                    {"principle": one.principles[i].name, "critique": one.critiques[i], "revision": one.texts[i]}
                    for one in rounds
                ],
                "revision_preferred": None if preferred_N is None else _rounded(preferred_N[i]),
                "verdicts": None if verdicts_NV is None else [_rounded(v) for v in verdicts_NV[i]],
                "verdict_score": None if scores is None else round(scores[i], 6),
            }
        )
    return rows


def choice_records(
    indices: Sequence[int], prompts: Sequence[str], first: Sequence[str], second: Sequence[str], judgment: Judgment
) -> list[dict[str, Any]]:
    """One row per pair, with the probability that the first is the better one, by principle and in both orders."""
    rows = []
    for i, (index, prompt) in enumerate(zip(indices, prompts, strict=True)):
        places = judgment.first_place_NK2
        rows.append(
            {
                "kind": "choice",
                "prompt": prompt,
                "prompt_index": index,
                "texts": {"first": first[i], "second": second[i]},
                "preference": _rounded(judgment.preference_N[i]),
                "principles": [principle.name for principle in judgment.principles[i]],
                "preferences": [_rounded(p) for p in judgment.preference_NK[i]],
                "first_place": None if places is None else [[_rounded(p) for p in pair] for pair in places[i]],
            }
        )
    return rows


def _rounded(value: Tensor) -> float:
    return round(float(value), 6)
