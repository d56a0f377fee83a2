"""Text generation as a single Gymnasium environment: one completion at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium import Env, spaces

from bakeoff.envs.meter import Meter
from bakeoff.envs.rewards.call import AnyReward
from bakeoff.envs.tasks.prompts import Split
from bakeoff.envs.text_generation.episode_config import EpisodeConfig
from bakeoff.envs.text_generation.episodes import Episodes, Observation
from bakeoff.envs.text_generation.prompt_order import PromptOrder
from bakeoff.envs.text_generation.rendering import METADATA, check_render_mode, shown
from bakeoff.envs.text_generation.reset_options import ResetOptions
from bakeoff.envs.text_generation.spaces import TokenSpace, sequence_space
from bakeoff.errors import ActionError, EpisodeEndedError

if TYPE_CHECKING:
    from bakeoff.envs.language_model.model import LanguageModel
    from bakeoff.envs.tasks.base import Task


class TextGenerationEnv(Env[Observation, np.int64]):
    """One completion: an action is a token, the reward comes when the completion ends.

    The same transitions as :class:`bakeoff.envs.text_generation.vector_env.TextGenerationVectorEnv`, whose bookkeeping it shares.
    """

    metadata = METADATA

    def __init__(
        self,
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
        meter: Meter | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment; the arguments are those of the vector environment."""
        self.episode_config = EpisodeConfig(
            language_model, prompts, reward, max_new_tokens=max_new_tokens, columns=columns, name=reward_name,
            token_mask=token_mask, max_prompt_tokens=max_prompt_tokens, meter=meter,
        )  # fmt: skip
        self.language_model, self.max_new_tokens, self.kl_coef = language_model, max_new_tokens, float(kl_coef)
        self.render_mode = check_render_mode(render_mode)
        self.action_space = TokenSpace(self.episode_config.allowed_V)
        self.observation_space: spaces.Space[Any] = sequence_space(
            self.episode_config.prompt_length + max_new_tokens,
            max(language_model.vocab_size - 1, language_model.pad_id),
        )
        self._episodes = Episodes(1, self.episode_config)
        self._order = PromptOrder(len(self.episode_config.prompts))

    @classmethod
    def from_task(cls, task: Task, *, split: Split = "train", **kwargs: Any) -> TextGenerationEnv:
        """The environment of a task."""
        prompts, columns = task.prompts.of_split(split)
        settings: dict[str, Any] = {
            "max_new_tokens": task.max_new_tokens,
            "kl_coef": task.kl_coef,
            "columns": columns,
            **kwargs,
        }
        return cls(task.language_model, prompts, task.reward, **settings)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a new episode.

        Args:
            seed: restarts the prompt order; without one it continues.
            options: ``prompt`` (a text) or ``prompt_indices`` (a number).

        Returns:
            The observation, and an info of ``prompt`` and ``prompt_index``.
        """
        super().reset(seed=seed)
        chosen = ResetOptions.parse(options, 1, self.episode_config)
        if seed is not None:
            self._order.reseed(seed)
        self._np_random, self._np_random_seed = self._order.generator, self._order.seed
        prompts = chosen.prompts or [self.episode_config.prompts[self._order.draw(1)[0]]]
        (info,) = self._episodes.begin(self._episodes.all_rows, prompts)
        if self.render_mode == "human":
            self.render()
        return self._episodes.row_observation(0), info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append one token.

        Raises:
            ActionError: a token outside the vocabulary or a forbidden one; nothing has changed then.
            EpisodeEndedError: the episode is over, or none has begun.
            RewardError: the reward failed.
        """
        if self._episodes.ended_B[0]:
            what = "the episode is over" if self._episodes.begun else "no episode has begun"
            raise EpisodeEndedError(f"step was called, but {what}; call reset() first")
        token = np.asarray(action)
        if token.size != 1 or token.dtype.kind not in "iu":
            raise ActionError(f"action {action!r} is not a token id; expected one whole number")
        (terminated,), (truncated,) = self._episodes.advance(token.reshape(1))
        reward, info = 0.0, dict[str, Any]()
        if terminated or truncated:
            finished = self._episodes.finish(self._episodes.all_rows)
            reward, info = float(finished.rewards_N[0]), finished.infos[0]
        if self.render_mode == "human":
            self.render()
        return self._episodes.row_observation(0), reward, bool(terminated), bool(truncated), info

    def render(self) -> str | None:
        """Prompt and completion in one line: returned (``ansi``) or printed (``human``)."""
        lines = shown((self._episodes.render(0),), self.render_mode)
        return None if lines is None else lines[0]

    @property
    def meter(self) -> Meter:
        """The meter that counts what is spent here."""
        return self.episode_config.meter

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """True on tokens that may be played, shape (V,); the same at every step. The name is sb3-contrib's."""
        return self.episode_config.allowed_V.copy()
