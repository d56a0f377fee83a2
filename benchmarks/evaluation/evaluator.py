"""Evaluation: the same prompts, the same uniform random numbers and the same judges for all contestants.

Common random numbers make differences between contestants and between steps less noisy. Win rates are over pairs of completions
that share none. Nothing here changes the contestant's meter or any random generator but its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bakeoff.algos.core.algorithm import Contestant
from bakeoff.algos.core.policy import Policy
from bakeoff.benchmarks.evaluation import text_metrics
from bakeoff.benchmarks.evaluation.audit import scored_so_far
from bakeoff.benchmarks.evaluation.score_completions import judged
from bakeoff.benchmarks.evaluation.standard_error import error_within_prompts
from bakeoff.benchmarks.evaluation.token_ratios import TokenRatios, token_ratios
from bakeoff.benchmarks.evaluation.win_shares import next_of_prompt, win_rate, win_shares
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.tasks.base import Measure, Task
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.seeding import untouched_global_randomness

EXACT_COMPLETIONS = 64
"""Completions sampled where exact figures are known and samples only show the text."""


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation."""

    metrics: dict[str, float]
    """By the public names."""
    samples: list[dict[str, Any]]
    """Rows for ``samples.jsonl``, without their step."""


@dataclass(frozen=True)
class _Scored:
    """Completions and their scores by the judges."""

    completions: Completions
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    proxy_scores: npt.NDArray[np.float64]
    gold_scores: npt.NDArray[np.float64] | None
    proxy_parts: Mapping[str, npt.NDArray[np.float64]]
    measured: Mapping[str, Mapping[int, float]]
    """By measure: row to value, for the rows that it concerns."""

    @property
    def judged_scores(self) -> npt.NDArray[np.float64]:
        """The score that decides who wins: gold where there is one."""
        return self.proxy_scores if self.gold_scores is None else self.gold_scores


class Evaluator:
    """Evaluates any contestant of one task and seed."""

    def __init__(self, task: Task, completions: int, samples: int, answer_seed: int, reference_seed: int) -> None:
        """Prepare; the reference's completions are sampled when first needed.

        Args:
            task: what is played.
            completions: how many are sampled at each evaluation.
            samples: how many of them become rows.
            answer_seed: seeds the generator of contestants, the same at every evaluation, and of the reference's first draw.
            reference_seed: seeds the reference's second draw, which shares no random numbers with any contestant.
        """
        self.task = task
        count = completions if task.enumeration is None else min(completions, EXACT_COMPLETIONS)
        self._prompt_rows = evaluation_rows(len(task.prompts.evaluation), count)
        self._samples = samples
        self._answer_seed, self._reference_seed = answer_seed, reference_seed
        self._envs = TextGenerationVectorEnv.from_task(task, count, split="evaluation", seed=0)
        self._draws: dict[int, tuple[_Scored, Tensor]] = {}

    @torch.no_grad()
    def evaluate(self, contestant: Contestant) -> Evaluation:
        """All metrics of a contestant as it is now. Pause its meter around this."""
        with untouched_global_randomness():
            self._reset()
            queries = scored_so_far(self.task)
            generator = torch.Generator().manual_seed(self._answer_seed)
            answers = contestant.generate(self._envs, generator)
            queries = scored_so_far(self.task) - queries
            scored = self._score(answers)
            statistics = dict(contestant.statistics(answers))
            kl_B = statistics.pop("kl")
            wins_B, rival_texts = self._against_reference(scored, generator.get_state())
            metrics = self._metrics(scored, kl_B, wins_B)
            metrics |= {name: float(values.double().mean()) for name, values in statistics.items()}
            if queries:  # as counted here, not as the contestant reports it
                metrics["queries_per_answer"] = queries / len(answers)
            if self.task.enumeration is not None:
                logprobs_QN = contestant.sequence_logprobs(self.task.enumeration)
                metrics |= self.task.enumeration.objective(logprobs_QN)
            shown = answers.select(range(min(self._samples, len(answers))))
            if isinstance(contestant, Policy) and len(
                shown
            ):  # read as the reference's are: the sampler's differ by rounding
                shown = dataclasses.replace(shown, logprobs_BT=contestant.logprobs(shown))
            ratios = token_ratios(self.task.language_model, shown)
        return Evaluation(metrics, self._rows(scored, kl_B, wins_B, rival_texts, ratios))

    def _metrics(self, scored: _Scored, kl_B: Tensor, wins_B: npt.NDArray[np.float64]) -> dict[str, float]:
        kl, proxy = float(kl_B.double().mean()), float(scored.proxy_scores.mean())
        objective_B = scored.proxy_scores - self.task.kl_coef * kl_B.double().cpu().numpy()
        metrics = {
            "proxy": proxy,
            "proxy_se": _standard_error(scored.proxy_scores),
            "kl": kl,
            "kl_se": float(kl_B.double().std()) / math.sqrt(len(kl_B)),
            "objective": proxy - self.task.kl_coef * kl,
            "objective_se": _standard_error(objective_B),
            "win_rate": win_rate(wins_B),
            "length": float(scored.completions.lengths_B.double().mean()),
            "distinct_1": text_metrics.distinct(scored.texts, 1),
            "distinct_2": text_metrics.distinct(scored.texts, 2),
            "repetition": text_metrics.mean_repetition(scored.texts),
        }
        metrics |= {f"proxy/{name}": float(values.mean()) for name, values in scored.proxy_parts.items()}
        error = error_within_prompts(objective_B, self._prompt_rows)
        if error is not None:
            metrics["objective_within_se"] = error
        if scored.gold_scores is not None:
            metrics["gold"] = float(scored.gold_scores.mean())
            metrics["gold_se"] = _standard_error(scored.gold_scores)
        for name, values in scored.measured.items():
            if values:
                found = np.array(list(values.values()))
                spread = float(found.std(ddof=1)) if len(found) > 1 else 0.0
                metrics |= {
                    f"measure_{name}": float(found.mean()),
                    f"measure_{name}_se": spread / math.sqrt(len(found)),
                }
        return metrics

    def _rows(
        self,
        scored: _Scored,
        kl_B: Tensor,
        wins_B: npt.NDArray[np.float64],
        rival_texts: Sequence[str],
        ratios: Sequence[TokenRatios],
    ) -> list[dict[str, Any]]:
        lengths_B = scored.completions.lengths_B
        return [
            {
                "prompt": scored.prompts[row],
                "prompt_index": int(self._prompt_rows[row]),
                "completion": scored.texts[row],
                "proxy": float(scored.proxy_scores[row]),
                "gold": None if scored.gold_scores is None else float(scored.gold_scores[row]),
                "kl": float(kl_B[row]) if math.isfinite(float(kl_B[row])) else None,
                "length": int(lengths_B[row]),
                "win": float(wins_B[row]),
                "reference_completion": rival_texts[row],
                "tokens": ratios[row].tokens,
                "log_ratios": ratios[row].log_ratios,
                **_row_parts(scored.proxy_parts, row),
                **self._measures_of(row, scored),
            }
            for row in range(len(ratios))
        ]

    def _measures_of(self, row: int, scored: _Scored) -> dict[str, Any]:
        if not self.task.measures:
            return {}
        return {"measures": {name: values[row] for name, values in scored.measured.items() if row in values}}

    def _reset(self) -> None:
        self._envs.reset(options={"prompt_indices": self._prompt_rows})

    def _against_reference(self, scored: _Scored, state: Tensor) -> tuple[npt.NDArray[np.float64], list[str]]:
        """For each completion the share of the reference's that it beats, and the text of one of those.

        Args:
            scored: the contestant's completions.
            state: of its generator, after it had generated them.

        A contestant that drew as many random numbers as the reference drew the same ones row by row, so its completion i is
        compared with the reference's others of the prompt, whose numbers differ. Another one (best of n draws for n candidates)
        may have used any of them anywhere, and a prompt with one completion has no others: those meet the second draw.
        """
        rows_B = self._prompt_rows
        wins_B, texts = np.full(len(rows_B), np.nan), [""] * len(rows_B)
        if len(np.unique(rows_B)) < len(rows_B):  # some prompt is answered more than once
            first, reference_state = self._reference(self._answer_seed)
            if torch.equal(state, reference_state):
                wins_B = win_shares(scored.judged_scores, first.judged_scores, rows_B, skip_own=True)
                texts = [first.texts[row] for row in next_of_prompt(rows_B)]
        unmet_B = np.isnan(wins_B)
        if unmet_B.any():
            second, _ = self._reference(self._reference_seed)
            wins_B[unmet_B] = win_shares(scored.judged_scores, second.judged_scores, rows_B, skip_own=False)[unmet_B]
            texts = [second.texts[row] if unmet_B[row] else texts[row] for row in range(len(rows_B))]
        return wins_B, texts

    def _reference(self, seed: int) -> tuple[_Scored, Tensor]:
        """The reference's completions and its generator's state after them; drawn when first needed, and kept."""
        if seed not in self._draws:
            self._reset()
            generator = torch.Generator().manual_seed(seed)
            drawn = self.task.language_model.sample(self._envs.prompt_batch, self.task.max_new_tokens, generator)
            self._draws[seed] = self._score(drawn), generator.get_state()
        return self._draws[seed]

    def _score(self, completions: Completions) -> _Scored:
        """Play the completions in the environment, so that the proxy is what algorithms get, and call the other judges."""
        played = self._envs.play(completions)
        tokens, mask = completions.tokens_BT.cpu(), completions.mask_BT.cpu()
        ids = [t[m].tolist() for t, m in zip(tokens, mask, strict=True)]
        columns = self.task.prompts.of_split("evaluation")[1]

        def ask(measure: Measure) -> dict[int, float]:
            return judged(measure, played.prompts, played.texts, ids, self._prompt_rows.tolist(), columns)

        gold = None if self.task.gold is None else np.array(list(ask(Measure(self.task.gold)).values()))
        measured = {name: ask(measure) for name, measure in self.task.measures.items()}
        proxy = played.rewards_B.cpu().double().numpy()
        return _Scored(completions, played.prompts, played.texts, proxy, gold, played.parts, measured)


def _standard_error(values_B: npt.NDArray[np.float64]) -> float:
    """Of the mean of a contestant's scores, if its completions were drawn anew for prompts like these."""
    return float(values_B.std(ddof=1)) / math.sqrt(len(values_B))


def _row_parts(parts: Mapping[str, npt.NDArray[np.float64]], row: int) -> dict[str, dict[str, float]]:
    """The scores of the proxy's parts for a sample's row; empty where it has no parts."""
    return {"proxy_parts": {name: float(values[row]) for name, values in parts.items()}} if parts else {}


def evaluation_rows(prompts: int, completions: int) -> npt.NDArray[np.int64]:
    """Which prompt each completion answers: all in turn, or an even spread where prompts outnumber completions."""
    if completions >= prompts:
        return np.arange(completions, dtype=np.int64) % prompts
    return np.arange(completions, dtype=np.int64) * prompts // completions
