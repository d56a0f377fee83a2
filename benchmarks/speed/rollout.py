"""What a rollout costs beside the model's own forward passes for the same tokens, and beside ``generate``.

    python benchmarks/speed/rollout.py --model tiny|smollm2 [--rounds 5] [--threads 1]

`forwards` feeds the tokens that our sampler chose through the plain transformers model with a key-value cache, one at a time,
logits of the last position only: the least that any sampler has to do. `generate` samples as many tokens by transformers' own
method, without filters, so from the same distribution.
"""

from __future__ import annotations

import argparse

import torch
from transformers import DynamicCache

from bakeoff.benchmarks.speed import models
from bakeoff.benchmarks.speed.paired import report, take_turns
from bakeoff.envs.language_model.cache_names import cache_argument
from bakeoff.envs.language_model.completions import Completions
from bakeoff.envs.language_model.forward import positions
from bakeoff.envs.language_model.model import LanguageModel

BATCH, TOKENS = 64, 24


@torch.no_grad()
def forwards(model: LanguageModel, completions: Completions) -> None:
    mask = completions.sequence_mask_BS.long()
    tokens, position = completions.sequence_tokens_BS, positions(completions.sequence_mask_BS)
    cache, start, width = DynamicCache(config=model.module.config), 0, completions.prompts.tokens_BP.shape[1]
    name = cache_argument(model.module.forward) or "cache"
    for end in range(width, width + TOKENS):
        model.module(
            tokens[:, start:end], attention_mask=mask[:, :end], position_ids=position[:, start:end],
            **{name: cache}, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        start = end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=models.NAMES, default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = models.load(options.model)
    batch = model.pad(model.encode(models.prompts(options.model, BATCH)))
    model.eos_ids = (-1,)  # nothing ends early: all rivals do 64 x 24 tokens
    completions = model.sample(batch, TOKENS, torch.Generator().manual_seed(0))

    def generate() -> None:
        model.module.generate(
            batch.tokens_BP, attention_mask=batch.mask_BP.long(), do_sample=True, top_k=0, top_p=1.0,
            max_new_tokens=TOKENS, eos_token_id=None, pad_token_id=model.pad_id,
        )  # fmt: skip

    rivals = {
        "forwards": lambda: forwards(model, completions),
        "rollout": lambda: model.sample(batch, TOKENS, torch.Generator().manual_seed(0)),
        "generate": generate,
    }
    print(report(f"{BATCH} x {TOKENS} tokens, {model.name}", take_turns(rivals, options.rounds), "forwards"))


if __name__ == "__main__":
    main()
