"""What a step of the vector environment costs while no completion ends: bookkeeping alone, no model and no reward.

    python benchmarks/speed/env_step.py [--envs 64,256,1024] [--repeats 5]

A vocabulary of 49,152 tokens, prompts of 16, completions of up to 48 (the sizes of a small real model). Each figure is
the median over all steps of all repeats; resets are not in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv

VOCABULARY, PROMPT_TOKENS, MAX_NEW_TOKENS = 49_152, 16, 48
LIMIT_US = 200.0
"""What a step on 64 environments may cost, in microseconds."""


class Vocabulary:
    """What the environment asks of a language model, without one."""

    vocab_size, pad_id, eos_ids, name = VOCABULARY, 0, (1,), "vocabulary"
    device = torch.device("cpu")
    allowed_V = torch.arange(VOCABULARY) > 0

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        return [list(range(2, 2 + PROMPT_TOKENS)) for _ in prompts]

    def decode(self, tokens_BT: torch.Tensor, mask_BT: torch.Tensor) -> list[str]:
        return [""] * len(tokens_BT)

    def check_prompt_length(self, *_: Any) -> None:
        pass


def measure(num_envs: int, repeats: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Seconds of each step that ended no completion."""
    envs = TextGenerationVectorEnv(
        num_envs,
        Vocabulary(),  # type: ignore[arg-type]
        [str(number) for number in range(256)],
        lambda completions: [0.0] * len(completions),
        max_new_tokens=MAX_NEW_TOKENS,
        seed=0,
    )
    seconds = []
    for repeat in range(repeats + 1):
        envs.reset()
        actions = rng.integers(2, VOCABULARY, (MAX_NEW_TOKENS, num_envs))
        for step in range(MAX_NEW_TOKENS - 1):
            start = time.perf_counter()
            envs.step(actions[step])
            if repeat:  # the first round warms up
                seconds.append(time.perf_counter() - start)
    return np.array(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", default="64,128,256,512,1024", help="numbers of environments, separated by commas")
    parser.add_argument("--repeats", type=int, default=20, help="completions played in each environment")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{'envs':>6} {'us per step':>10} {'90th pct':>10} {'us per env':>10}")
    for num_envs in map(int, options.envs.split(",")):
        microseconds = measure(num_envs, options.repeats, rng) * 1e6
        median = float(np.median(microseconds))
        print(f"{num_envs:>6} {median:>10.1f} {np.quantile(microseconds, 0.9):>10.1f} {median / num_envs:>10.3f}")
        if num_envs == 64 and median > LIMIT_US:
            print(f"       above the limit of {LIMIT_US:.0f} us")


if __name__ == "__main__":
    main()
