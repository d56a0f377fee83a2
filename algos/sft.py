"""Supervised fine-tuning on given text: it raises the likelihood of demonstrations and never calls the reward.

The baseline where good text exists and no reward. It has no KL penalty (`kl_coef` is not used): only the small amount of
training keeps it near the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import PositiveInt

from bakeoff.algos.best_of_n import best_of_each
from bakeoff.algos.core.algorithm import Algorithm, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.schedule import updates_of_passes
from bakeoff.algos.preference_data.encoding import encode_demonstrations, read_demonstrations
from bakeoff.algos.preference_data.sft_step import imitate
from bakeoff.envs.tasks.base import Task
from bakeoff.envs.text_generation.prompt_order import PromptOrder
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.errors import ConfigError
from bakeoff.seeding import torch_generator


class SFTConfig(AlgorithmConfig):
    """Settings of supervised fine-tuning."""

    data: Path | tuple[dict[str, Any], ...] | None = None
    """What to imitate; it has to be given: a `.jsonl` file of `prompt` and `completion` (or `text`), a file of one text a
    line, or a list of such objects."""
    epochs: PositiveInt = 3
    """Passes over the data; then it has finished."""


class SFT(Algorithm):
    """Supervised fine-tuning on demonstrations."""

    Config = SFTConfig
    data_source: ClassVar[DataSource] = DataSource.DEMONSTRATIONS
    config: SFTConfig

    def __init__(self, config: SFTConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator) -> None:
        super().__init__(config, policy, envs, rng)
        if config.data is None:
            raise ConfigError(
                "sft", ['"data" is missing; give a .jsonl file of prompt and completion, or a list of them']
            )
        rows = read_demonstrations(config.data)
        self.demonstrations, cut = encode_demonstrations(policy.model, rows, envs.max_new_tokens)
        self.cut_share = cut / len(rows)
        self.order = PromptOrder(len(rows), int(torch.randint(2**62, (1,), generator=rng)))
        self.optimizer = Optimizer(
            policy.parameters(), config, policy.model.width, planned_updates=self.planned_updates
        )
        self.seen = 0

    def update(self) -> Mapping[str, float]:
        """Imitate the next batch of demonstrations."""
        self.optimizer.start_update(self.progress)
        size = min(self.config.batch_size, len(self.demonstrations), self.total - self.seen)
        rows = torch.from_numpy(self.order.draw(size))
        figures = imitate(self.policy, self.optimizer, self.demonstrations, rows)
        self.seen += len(rows)
        return {
            **figures,
            "epoch": self.seen / len(self.demonstrations),
            "length": float(self.demonstrations.lengths_B[rows].float().mean()),
            "cut_share": self.cut_share,
        }

    @property
    def total(self) -> int:
        """Demonstrations it will have seen at the end."""
        return self.config.epochs * len(self.demonstrations)

    @property
    def planned_updates(self) -> int:
        """Updates that the passes take."""
        return updates_of_passes(len(self.demonstrations), self.config.epochs, self.config.batch_size)

    @property
    def progress(self) -> float:
        """From 0 to 1: of its epochs or of the budget, whichever ends sooner."""
        return max(self.seen / self.total, self.envs.progress)

    @property
    def finished(self) -> bool:
        """After the last epoch."""
        return self.seen >= self.total

    @classmethod
    def example_settings(cls, task: Task) -> dict[str, Any]:
        """Demonstrations made from the task itself: the best of 16 of the reference's completions, 256 times."""
        envs = TextGenerationVectorEnv.from_task(task, 256, seed=0)
        envs.reset()
        prompts = envs.prompt_batch.repeat_interleave(16)
        candidates = task.language_model.sample(prompts, envs.max_new_tokens, torch_generator(0, "sft example"))
        best = candidates.select(best_of_each(torch.as_tensor(envs.score_completions(candidates)), 16))
        completions = task.language_model.decode(best.tokens_BT, best.mask_BT)
        texts = [task.prompts.train[i] for i in best.prompts.indices_B.tolist()]
        rows = [{"prompt": p, "completion": c} for p, c in zip(texts, completions, strict=True) if c.strip()]
        return {"data": rows, "epochs": 10}
