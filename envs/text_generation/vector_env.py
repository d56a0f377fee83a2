"""Text generation as a vector environment: an action is a token, an episode is a completion.

An observation holds prompt and completion so far; the reward comes when the completion ends, and is 0 before. An
end-of-sequence token *terminates*, the length limit *truncates*. Stepping is bookkeeping: no model runs in here but the
reward's, in one batch over the completions that end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from bakeoff.envs.meter import Budget, Meter
from bakeoff.envs.rewards.call import AnyReward
from bakeoff.envs.tasks.prompts import Split
from bakeoff.envs.text_generation.batch_play import BatchPlay
from bakeoff.envs.text_generation.episode_config import EpisodeConfig
from bakeoff.envs.text_generation.episodes import Episodes, FinishedEpisodes, Observation, Rows
from bakeoff.envs.text_generation.prompt_order import PromptOrders
from bakeoff.envs.text_generation.rendering import METADATA, check_render_mode, shown
from bakeoff.envs.text_generation.reset_options import ResetOptions
from bakeoff.envs.text_generation.spaces import TokenSpace, sequence_space
from bakeoff.errors import ActionError, EpisodeEndedError, UserError

if TYPE_CHECKING:
    from bakeoff.envs.language_model.model import LanguageModel
    from bakeoff.envs.tasks.base import Task

BoolArray = npt.NDArray[np.bool_]
StepResult = tuple[Observation, npt.NDArray[np.float64], BoolArray, BoolArray, dict[str, Any]]


class TextGenerationVectorEnv(BatchPlay, VectorEnv[Observation, npt.ArrayLike, npt.NDArray[Any]]):
    """A Gymnasium vector environment of B completions.

    Spaces: an action is B token ids; an observation is a dict of ``tokens`` (int64) and ``mask`` (int8, 1 on real
    tokens), each (B, S), S = P + T: the prompt padded on the left to P, the completion on the right to T.
    Returned arrays are the caller's own: later steps do not change them.
    """

    metadata = METADATA

    def __init__(
        self,
        num_envs: int,
        language_model: LanguageModel,
        prompts: Sequence[str],
        reward: AnyReward,
        *,
        max_new_tokens: int,
        kl_coef: float = 0.0,
        columns: Mapping[str, Sequence[Any]] | None = None,
        reward_name: str | None = None,
        token_mask: npt.ArrayLike | None = None,
        max_prompt_tokens: int | None = None,
        shared_prompts: bool = False,
        meter: Meter | None = None,
        budget: Budget | None = None,
        counts_queries: bool = True,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        seed: int | None = None,
    ) -> None:
        """Make the environment.

        Args:
            num_envs: B, how many completions are played side by side.
            language_model: gives tokenizer, vocabulary and context length; its weights are not used.
            prompts: what episodes start from.
            reward: a callable with TRL's signature (see :class:`bakeoff.envs.rewards.call.Reward`).
            max_new_tokens: T, where a completion is truncated.
            kl_coef: the KL coefficient, in reward per nat; kept for algorithms to read, it changes no reward here.
            columns: extra values for the reward, one for each prompt, by name.
            reward_name: how messages call the reward.
            token_mask: shape (V,), False on further tokens that must not be played.
            max_prompt_tokens: P, by default the longest prompt's length; more makes room for other prompts at reset.
            shared_prompts: False: sub-environment i draws from an order of its own, seeded with seed + i, just like
                Gymnasium's SyncVectorEnv of single environments. True: one order for the whole batch, so that no prompt
                comes twice before all have come once, in any sub-environment.
            meter: counts tokens and reward queries; a new one by default.
            budget: what :attr:`progress` is measured against.
            counts_queries: False where the reward is a judge of the algorithm's own and not the task's, see :meth:`with_reward`.
            autoreset_mode: what happens after an episode's end, as Gymnasium defines it.
            render_mode: ``"ansi"`` (text from :meth:`render`), ``"human"`` (printed at each step), or None.
            seed: seed of the first reset, where that is given none.

        Raises:
            UserError: a bad argument; PromptError when it is a prompt.
        """
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise UserError(f"num_envs is {num_envs!r}, expected a whole number from 1")
        self.episode_config = EpisodeConfig(
            language_model, prompts, reward, max_new_tokens=max_new_tokens, columns=columns, name=reward_name,
            token_mask=token_mask, max_prompt_tokens=max_prompt_tokens, meter=meter, counts_queries=counts_queries,
        )  # fmt: skip
        self.num_envs, self.language_model, self.max_new_tokens = num_envs, language_model, max_new_tokens
        self.kl_coef, self.budget, self.shared_prompts = float(kl_coef), budget, shared_prompts
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        self.render_mode = check_render_mode(render_mode)
        self.single_action_space = TokenSpace(self.episode_config.allowed_V)
        self.single_observation_space = sequence_space(
            self.episode_config.prompt_length + max_new_tokens,
            max(language_model.vocab_size - 1, language_model.pad_id),
        )
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._episodes = Episodes(num_envs, self.episode_config)
        self._orders = PromptOrders(len(self.episode_config.prompts), num_envs, shared=shared_prompts)
        self._autoreset_B = np.zeros(num_envs, dtype=bool)
        self._progress: Callable[[], float] | None = None
        self._planned_updates: int | None = None
        if seed is not None:
            self._orders.reseed(seed, self._episodes.all_rows)

    @classmethod
    def from_task(
        cls,
        task: Task,
        num_envs: int,
        *,
        split: Split = "train",
        meter: Meter | None = None,
        budget: Budget | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> TextGenerationVectorEnv:
        """A task's environment as algorithms use it: one prompt order for the batch and no autoreset by default."""
        prompts, columns = task.prompts.of_split(split)
        settings: dict[str, Any] = {
            "max_new_tokens": task.max_new_tokens,
            "kl_coef": task.kl_coef,
            "columns": columns,
            "shared_prompts": True,
            "autoreset_mode": AutoresetMode.DISABLED,
            **kwargs,
        }
        return cls(
            num_envs, task.language_model, prompts, task.reward, meter=meter, budget=budget, seed=seed, **settings
        )

    # ---------------------------------------------------------------- Gymnasium

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin new episodes.

        Args:
            seed: restarts the prompt orders: sub-environment i takes ``seed + i``, or its own of a list of B. Without
                one the orders continue.
            options: ``prompt`` (a text, or B of them), ``prompt_indices`` (a number, or B of them), ``group_size``
                (each drawn prompt goes to that many neighboring sub-environments), ``reset_mask`` (bool (B,): reset
                these only).

        Returns:
            The observation of all sub-environments; infos ``prompt`` and ``prompt_index`` of those that were reset.
        """
        chosen = ResetOptions.parse(options, self.num_envs, self.episode_config)
        if len(chosen.rows) < self.num_envs and not self._episodes.begun:
            raise UserError("the first reset must reset every sub-environment; leave out reset_mask")
        if seed is not None:
            self._orders.reseed(seed, chosen.rows)
        prompts = chosen.prompts
        if prompts is None:
            drawn = self._orders.draw(chosen.rows[:: chosen.group_size])
            prompts = [self.episode_config.prompts[index] for index in drawn for _ in range(chosen.group_size)]
        self._autoreset_B[chosen.rows] = False
        if len(chosen.rows) == self.num_envs:
            self._episodes.batch = self._episodes.all_rows
        infos = self._merge({}, self._episodes.begin(chosen.rows, prompts), chosen.rows)
        if self.render_mode == "human":
            self.render()
        return self._episodes.observation(), infos

    def step(self, actions: npt.ArrayLike) -> StepResult:
        """Append one token to every completion.

        Args:
            actions: B token ids; one for a sub-environment that is only reset in this step (NEXT_STEP) is ignored.

        Raises:
            ActionError: a token outside the vocabulary or a forbidden one; nothing has changed then.
            EpisodeEndedError: an episode is over (DISABLED) or none has begun.
            RewardError: the reward failed.
        """
        actions_B = self._checked_actions(actions)
        resetting = self._autoreset_B if self.autoreset_mode is AutoresetMode.NEXT_STEP else None
        if resetting is not None and resetting.any():
            return self._step_some(actions_B, np.flatnonzero(~resetting), np.flatnonzero(resetting))
        if self._episodes.ended_B.any():
            row = int(np.argmax(self._episodes.ended_B))
            raise EpisodeEndedError(
                f"sub-environment {row} was stepped after its episode's end; reset it first "
                '(reset(options={"reset_mask": terminated | truncated}))'
            )
        terminated, truncated = self._episodes.advance(actions_B)
        rewards_B = np.zeros(self.num_envs)
        return self._conclude(rewards_B, terminated, truncated, {})

    def _step_some(self, actions_B: npt.NDArray[Any], playing: Rows, resetting: Rows) -> StepResult:
        """A step in NEXT_STEP mode where some sub-environments ended in the step before, and are reset in this one."""
        terminated, truncated = np.zeros(self.num_envs, dtype=bool), np.zeros(self.num_envs, dtype=bool)
        terminated[playing], truncated[playing] = self._episodes.advance(actions_B[playing], playing)
        infos = self._merge({}, self._begin_drawn(resetting), resetting)
        return self._conclude(np.zeros(self.num_envs), terminated, truncated, infos)

    def _conclude(
        self, rewards_B: npt.NDArray[np.float64], terminated: BoolArray, truncated: BoolArray, infos: dict[str, Any]
    ) -> StepResult:
        """Score the episodes that have ended, and reset them where the mode says so."""
        done_B = terminated | truncated
        if done_B.any():
            finished = self._episodes.finish(np.flatnonzero(done_B))
            rewards_B[finished.rows] = finished.rewards_N
            infos = self._report(finished, infos)
        self._autoreset_B = done_B
        if self.render_mode == "human":
            self.render()
        return self._episodes.observation(), rewards_B, terminated, truncated, infos

    def _report(self, finished: FinishedEpisodes, infos: dict[str, Any]) -> dict[str, Any]:
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            return self._merge(infos, finished.infos, finished.rows)
        last = [
            {"final_obs": self._episodes.row_observation(row), "final_info": info}
            for row, info in zip(finished.rows, finished.infos, strict=True)
        ]
        infos = self._merge(infos, last, finished.rows)
        return self._merge(infos, self._begin_drawn(finished.rows), finished.rows)

    def render(self) -> tuple[str, ...] | None:
        """One line for each sub-environment: returned (``ansi``) or printed (``human``)."""
        return shown(tuple(self._episodes.render(row) for row in self._episodes.all_rows), self.render_mode)

    # ---------------------------------------------------------------- for algorithms

    def with_reward(
        self,
        reward: AnyReward,
        name: str,
        seed: int,
        *,
        progress: Callable[[], float] | None = None,
        planned_updates: int | None = None,
    ) -> TextGenerationVectorEnv:
        """A second environment with these prompts, limits and meter, and another reward, such as a preference model.

        Scores of that judge are no reward queries, since they reveal nothing of the task's reward; tokens are counted as usual.

        Args:
            reward: the judge.
            name: how messages call it.
            seed: of the prompt order.
            progress: what :attr:`progress` says instead of the budget's share.
            planned_updates: likewise what :attr:`planned_updates` says.
        """
        envs = TextGenerationVectorEnv(
            self.num_envs, self.language_model, [prompt.text for prompt in self.episode_config.prompts], reward,
            max_new_tokens=self.max_new_tokens, kl_coef=self.kl_coef, columns=self.columns, reward_name=name,
            shared_prompts=self.shared_prompts, meter=self.meter, counts_queries=False,
            autoreset_mode=self.autoreset_mode, seed=seed,
        )  # fmt: skip
        envs._progress, envs._planned_updates = progress, planned_updates
        return envs

    @property
    def columns(self) -> Mapping[str, Sequence[Any]]:
        """The prompts' columns by name, one value for each prompt."""
        return self.episode_config.columns

    def action_masks(self) -> BoolArray:
        """True on tokens that may be played, shape (B, V); the same for every sub-environment at every step."""
        return np.broadcast_to(self.episode_config.allowed_V, (self.num_envs, len(self.episode_config.allowed_V)))

    def state_dict(self) -> dict[str, Any]:
        """Prompt orders, generators and episodes in progress, as JSON values."""
        return {
            "orders": self._orders.state_dict(),
            "episodes": self._episodes.state_dict(),
            "autoreset": self._autoreset_B.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume exactly where :meth:`state_dict` was called.

        Raises:
            UserError: the state is of an environment with other prompts or another ``num_envs``.
        """
        if len(state["autoreset"]) != self.num_envs:
            raise UserError(
                f"the saved state is of {len(state['autoreset'])} sub-environments, there are {self.num_envs}"
            )
        self._orders.load_state_dict(state["orders"])
        self._episodes.load_state_dict(state["episodes"])
        self._autoreset_B = np.array(state["autoreset"], dtype=bool)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator that draws each sub-environment's prompts (B); one and the same where the order is shared."""
        return tuple(self._orders.of_row(row).generator for row in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each generator (B)."""
        return tuple(self._orders.of_row(row).seed for row in range(self.num_envs))

    # ---------------------------------------------------------------- inside

    def _begin_drawn(self, rows: Rows) -> list[dict[str, Any]]:
        return self._episodes.begin(rows, [self.episode_config.prompts[index] for index in self._orders.draw(rows)])

    def _checked_actions(self, actions: npt.ArrayLike) -> npt.NDArray[Any]:
        actions_B = np.asarray(actions)
        if actions_B.shape != (self.num_envs,) or actions_B.dtype.kind not in "iu":
            raise ActionError(
                f"actions have shape {actions_B.shape} and dtype {actions_B.dtype}, "
                f"expected whole numbers of shape ({self.num_envs},)"
            )
        return actions_B

    def _merge(self, infos: dict[str, Any], row_infos: Sequence[dict[str, Any]], rows: Rows) -> dict[str, Any]:
        for row, info in zip(rows, row_infos, strict=True):
            infos = self._add_info(infos, info, int(row))
        return infos
