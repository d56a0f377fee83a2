"""Whole batches of completions: what algorithms use of the vector environment, beside Gymnasium's own interface.

A batch is played in one call, is no larger than the budget's reward queries pay for, and is counted by the meter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode

from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.meter import Budget, Meter
from bakeoff.envs.precision import accurate
from bakeoff.envs.text_generation.episode_config import EpisodeConfig
from bakeoff.envs.text_generation.episodes import Episodes, ScoredCompletions
from bakeoff.envs.text_generation.prompt_order import PromptOrders
from bakeoff.errors import UserError


class BatchPlay:
    """The half of a vector environment that plays whole batches."""

    num_envs: int
    """Sub-environments: completions of a whole batch."""
    max_new_tokens: int
    """Where a completion is truncated."""
    autoreset_mode: AutoresetMode
    """What happens after an episode's end."""
    budget: Budget | None
    """What is left of it cuts the last batch."""
    episode_config: EpisodeConfig
    """Prompts, reward and limits."""
    _episodes: Episodes
    _orders: PromptOrders
    _progress: Callable[[], float] | None
    _planned_updates: int | None

    def begin_batch(self, group_size: int = 1, *, most: int | None = None) -> PromptBatch:
        """Begin the episodes of a batch that :meth:`play` will end: one in each sub-environment, or fewer at the budget's end.

        The prompts are those of ``reset(options={"group_size": group_size})``; the last batch is cut to what the budget's reward
        queries pay for, in whole groups, so that the limit is never exceeded.

        Args:
            group_size: each drawn prompt goes to this many neighboring sub-environments.
            most: episodes that are wanted at most.

        Returns:
            Their prompts, also :attr:`prompt_batch`.

        Raises:
            UserError: the budget does not pay for one group.
        """
        count = self.affordable(group_size)
        if count == 0:
            raise UserError(
                f"the budget has {self.queries_left} reward queries left, which do not pay for {group_size}; "
                "stop once out_of_budget is True"
            )
        if most is not None:
            count = min(count, -(-most // group_size) * group_size)
        drawn = self._orders.draw(self._episodes.all_rows[:count:group_size])
        self._episodes.begin_batch([self.episode_config.prompts[index] for index in drawn for _ in range(group_size)])
        return self.prompt_batch

    @property
    def queries_left(self) -> int | None:
        """Reward queries that the budget has left; None where it does not limit them, or nothing played here is one."""
        limit = None if self.budget is None else self.budget.reward_queries
        if limit is None or not self.episode_config.counts_queries:
            return None
        return max(0, math.floor(limit) - self.meter.reward_queries)

    def affordable(self, group_size: int = 1) -> int:
        """How many completions of one batch the budget's reward queries pay for, in whole groups."""
        left = self.queries_left
        count = self.num_envs if left is None else min(self.num_envs, left)
        return count // group_size * group_size

    def play(self, completions: Completions, *, scored: bool = True) -> ScoredCompletions:
        """Play a whole completion in every sub-environment: the same as stepping them token by token, in one call.

        Args:
            completions: one for each sub-environment of the batch (all, or those that :meth:`begin_batch` began), ended by an
                end-of-sequence token or by ``max_new_tokens``.
            scored: False leaves the reward unasked: its rewards are NaN and no query is counted, while tokens are.

        Raises:
            UserError: the autoreset mode is not DISABLED (all episodes end in here), or other prompts are answered.
            EpisodeEndedError: the episodes are not fresh: ``reset`` comes before every ``play``.
            ActionError: a completion that stepping could not have made.
            RewardError: the reward failed.
        """
        if self.autoreset_mode is not AutoresetMode.DISABLED:
            raise UserError("play needs autoreset_mode DISABLED, since all episodes end in it; or use step")
        self._check_prompts(completions.prompts)
        terminated = self._episodes.fill(completions.tokens_BT.cpu().numpy(), completions.mask_BT.cpu().numpy())
        finished = self._episodes.finish(self._episodes.batch, scored=scored)
        device = completions.tokens_BT.device
        return ScoredCompletions(
            completions,
            torch.tensor(finished.rewards_N, dtype=accurate(device), device=device),
            torch.from_numpy(terminated).to(device),
            torch.from_numpy(~terminated).to(device),
            tuple(info["completion"] for info in finished.infos),
            tuple(info["prompt"] for info in finished.infos),
            dict(self.episode_config.last_parts) if scored else {},
        )

    def score_completions(self, completions: Completions) -> npt.NDArray[np.float64]:
        """Rewards of any number of completions of this environment's prompts, shape (B,), without playing them.

        Generated tokens and reward queries are counted as if they had been played; the episodes stay as they are.

        Raises:
            RewardError: the reward failed.
        """
        tokens_BT, mask_BT = completions.tokens_BT.cpu().numpy(), completions.mask_BT.cpu().numpy()
        prompts = [self.episode_config.prompts[index] for index in completions.prompts.indices_B.tolist()]
        self.meter.add_generated(int(mask_BT.sum()))
        return self.episode_config.judge(prompts, tokens_BT, mask_BT)[0]

    def count_generated(self, completions: Completions) -> None:
        """Count the tokens of intermediate text, such as a critique, whose prompt is not among the environment's.

        It is neither played nor scored.
        """
        self.meter.add_generated(int(completions.mask_BT.sum()))

    def count_judgments(self, judgments: int) -> None:
        """Count judgments that are read from a language model's probabilities: each is one generated token.

        That is what a judgment would be if it were sampled, and it takes the same forward pass.
        """
        self.meter.add_generated(judgments)

    @property
    def prompt_batch(self) -> PromptBatch:
        """The prompts of the current batch of episodes, left-padded to P, on the language model's device."""
        return self._episodes.prompt_batch()

    @property
    def num_prompts(self) -> int:
        """The number of prompts."""
        return len(self.episode_config.prompts)

    @property
    def meter(self) -> Meter:
        """The meter that counts what is spent here."""
        return self.episode_config.meter

    @property
    def progress(self) -> float:
        """The share of the budget that is spent, from 0 to 1; 0 without a budget."""
        if self._progress is not None:
            return self._progress()
        return self.budget.progress(self.meter) if self.budget is not None else 0.0

    @property
    def planned_updates(self) -> int | None:
        """How many batches of all sub-environments the budget allows, at least; None where it does not say."""
        if self._planned_updates is not None or self.budget is None:
            return self._planned_updates
        return self.budget.planned_updates(self.num_envs, self.max_new_tokens)

    def _check_prompts(self, prompts: PromptBatch) -> None:
        ours = self.prompt_batch
        if len(prompts) != len(ours) or prompts.indices_B.tolist() != ours.indices_B.tolist():
            raise UserError("the completions answer other prompts than the episodes'; sample them from prompt_batch")
