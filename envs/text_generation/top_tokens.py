"""Text generation for agents that know nothing of language: k actions, and a vector to look at.

An action is the rank of a token among the k that the reference finds likeliest in the current state; an observation is the
reference's hidden state there. Both come from one forward pass over one token for all sub-environments together.

What an agent has to maximize is E[reward] - beta KL(agent || reference), and agents of other libraries maximize reward
alone. So each token's reward is changed by -beta (log agent(token) - log reference(token)), as
:mod:`bakeoff.envs.text_generation.kl_wrappers` does, at no further cost: the reference's log-probabilities,
over its whole vocabulary, are at hand. The agent's part comes from a
function that its owner gives once the agent exists (:attr:`VectorTopTokens.policy`).
Without one an action is charged as if it had been certain, +beta log reference(token): exact for an agent that always
takes its best action, and for one that samples it leaves out beta times the agent's entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import Env, Wrapper, spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from torch import Tensor

from bakeoff.envs.language_model.logprobs import rows_in_a_chunk
from bakeoff.envs.text_generation.episodes import Observation
from bakeoff.envs.text_generation.incremental_hidden import IncrementalReader
from bakeoff.errors import ActionError, UserError

if TYPE_CHECKING:
    from bakeoff.envs.language_model.model import LanguageModel

States = npt.NDArray[np.float32]
"""Observations, (B, D) or (D,); (.., D + 2k) where the choices are shown as well."""
AgentLogProbs = Callable[[States, npt.NDArray[np.int64]], npt.NDArray[np.floating[Any]]]
"""From B observations (B, D) and B actions to each action's log-probability under the agent, (B,)."""
LARGEST = 1e6
"""Bound of the observation space. What a head reads has passed a normalization and stays far below."""


@torch.no_grad()
def likeliest(model: LanguageModel, hidden_ND: Tensor, allowed_V: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest allowed tokens after each hidden state, and their log-probabilities over the whole vocabulary.

    The likeliest comes first. Where k takes in every allowed token there is nothing to choose, and they go by their ids:
    an action then means the same token in every state.

    Returns:
        Token ids (N, k) and log-probabilities (N, k).
    """
    everything = k == int(allowed_V.sum())
    narrower = not torch.equal(allowed_V, model.allowed_V)  # the head takes care of the tokens that the model forbids
    found = []
    for hidden in torch.split(hidden_ND, rows_in_a_chunk(hidden_ND, model.vocab_size)):
        logits_NV = model.head(hidden)
        if everything:
            tokens_NK = allowed_V.nonzero()[:, 0].expand(len(hidden), k)
        else:
            tokens_NK = (logits_NV.masked_fill(~allowed_V, -torch.inf) if narrower else logits_NV).topk(k, 1).indices
        found.append((tokens_NK, logits_NV.gather(1, tokens_NK) - logits_NV.logsumexp(1, keepdim=True)))
    tokens, logprobs = zip(*found, strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def observed(hidden_ND: Tensor, tokens_NK: Tensor, logprobs_NK: Tensor, show_choices: bool) -> Tensor:
    """The observation: hidden states (N, D), optionally with the choices' log-probabilities and ids (N, D + 2k)."""
    return torch.cat([hidden_ND, logprobs_NK, tokens_NK.to(hidden_ND.dtype)], 1) if show_choices else hidden_ND


def allowed_tokens(env: Any) -> Tensor:
    """True on the tokens that an environment lets one play, bool (V,) on its model's device."""
    return torch.from_numpy(env.unwrapped.episode_config.allowed_V).to(env.unwrapped.language_model.device)


class VectorTopTokens(VectorWrapper[Any, Any, Any, Any, npt.NDArray[Any]]):
    """A :class:`bakeoff.envs.text_generation.vector_env.TextGenerationVectorEnv` with k actions and hidden states as observations.

    Any autoreset mode. Infos gain ``log_ratio`` (log agent - log reference of each token, or -log reference without a
    policy) and ``kl_shaping``, what the reward was changed by.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        k: int,
        *,
        kl_coef: float | None = None,
        policy: AgentLogProbs | None = None,
        show_choices: bool = False,
    ) -> None:
        """Wrap an environment.

        Args:
            env: the environment, possibly wrapped already; its language model is the reference.
            k: how many tokens there are to choose from in each state.
            kl_coef: beta, in reward units per nat; the environment's own by default, 0 for the bare reward.
            policy: the agent's log-probabilities; may be set later as :attr:`policy`.
            show_choices: append the k tokens' log-probabilities under the reference, and their ids, to each observation.

        Raises:
            UserError: k is not from 1 to the number of allowed tokens, or beta is negative.
        """
        super().__init__(env)
        self._choices = _Choices(env, env.num_envs, k, kl_coef, show_choices)
        self.policy = policy
        self.single_observation_space, self.single_action_space = self._choices.spaces()
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self.action_space = batch_space(self.single_action_space, env.num_envs)
        self._ignored_B = np.zeros(env.num_envs, dtype=bool)
        """Sub-environments that ended in the step before and are only reset in the next one (NEXT_STEP)."""

    @property
    def k(self) -> int:
        """The number of tokens to choose from."""
        return self._choices.k

    @property
    def kl_coef(self) -> float:
        """Beta, in reward units per nat."""
        return self._choices.kl_coef

    @property
    def tokens_BK(self) -> npt.NDArray[np.int64]:
        """The token that each action stands for in the current states."""
        return self._choices.tokens_BK

    @property
    def logprobs_BK(self) -> npt.NDArray[np.float32]:
        """The reference's log-probabilities of these tokens, over its whole vocabulary."""
        return self._choices.logprobs_BK

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[States, dict[str, Any]]:
        """Begin new episodes; arguments as for the wrapped environment."""
        mask_B = (options or {}).get("reset_mask")
        observation, infos = self.env.reset(seed=seed, options=options)
        rows = np.arange(self.num_envs) if mask_B is None else np.flatnonzero(mask_B)
        self._ignored_B[rows] = False
        self._choices.begin(rows, observation)
        return self._choices.observation(), infos

    def step(
        self, actions: npt.ArrayLike
    ) -> tuple[States, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """Append the chosen token to every completion, and charge for it.

        Raises:
            ActionError: an action outside 0 to k - 1; nothing has changed then.
        """
        playing = np.flatnonzero(~self._ignored_B)
        actions_B = np.array(actions)
        if actions_B.shape == self._ignored_B.shape:
            actions_B[self._ignored_B] = 0
        tokens_B = self._choices.chosen_tokens(actions_B)
        log_ratio_B = np.zeros(self.num_envs)
        log_ratio_B[playing] = self._choices.log_ratio(playing, actions_B[playing], self.policy)
        shaping_B = -self.kl_coef * log_ratio_B
        observation, rewards, terminations, truncations, infos = self.env.step(tokens_B)
        self._choices.advance(tokens_B)
        played_B = ~self._ignored_B
        infos = {**infos, "log_ratio": log_ratio_B, "kl_shaping": shaping_B}
        infos |= {"_log_ratio": played_B, "_kl_shaping": played_B.copy()}
        ended_B = np.asarray(terminations) | np.asarray(truncations)
        mode = self.env.metadata["autoreset_mode"]
        begun = np.empty(0, np.intp)
        if mode is AutoresetMode.SAME_STEP and ended_B.any():
            begun = np.flatnonzero(ended_B)
            last = self._choices.observation()
            final = np.full(self.num_envs, None, dtype=object)
            for row in begun:
                final[row] = last[row].copy()
            infos["final_obs"] = final
        elif mode is AutoresetMode.NEXT_STEP:
            begun = np.flatnonzero(self._ignored_B)
            self._ignored_B = ended_B
        if len(begun):
            self._choices.begin(begun, observation)
        return self._choices.observation(), np.asarray(rewards) + shaping_B, terminations, truncations, infos

    def state_dict(self) -> dict[str, Any]:
        """The states of the episodes in progress; the wrapped environment keeps its own."""
        return {"choices": self._choices.state_dict(), "ignored": self._ignored_B.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._choices.load_state_dict(state["choices"])
        self._ignored_B = np.array(state["ignored"], dtype=bool)


class TopTokens(Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The top-k choice for a single :class:`bakeoff.envs.text_generation.env.TextGenerationEnv`."""

    def __init__(
        self,
        env: Env[Any, Any],
        k: int,
        *,
        kl_coef: float | None = None,
        policy: AgentLogProbs | None = None,
        show_choices: bool = False,
    ) -> None:
        """Wrap an environment; arguments as for :class:`VectorTopTokens`."""
        RecordConstructorArgs.__init__(
            self, k=k, kl_coef=kl_coef, policy=policy, show_choices=show_choices, _disable_deepcopy=True
        )
        Wrapper.__init__(self, env)
        self._choices = _Choices(env, 1, k, kl_coef, show_choices)
        self.policy = policy
        self.observation_space, self.action_space = self._choices.spaces()

    @property
    def k(self) -> int:
        """The number of tokens to choose from."""
        return self._choices.k

    @property
    def tokens_K(self) -> npt.NDArray[np.int64]:
        """The token that each action stands for in the current state."""
        tokens: npt.NDArray[np.int64] = self._choices.tokens_BK[0]
        return tokens

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[States, dict[str, Any]]:
        """Begin a new episode; arguments as for the wrapped environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._choices.begin(np.arange(1), {name: values[None] for name, values in observation.items()})
        return self._choices.observation()[0], info

    def step(self, action: Any) -> tuple[States, float, bool, bool, dict[str, Any]]:
        """Append the chosen token, and charge for it.

        Raises:
            ActionError: an action outside 0 to k - 1; nothing has changed then.
        """
        actions_B = np.asarray(action).reshape(1)
        tokens_B = self._choices.chosen_tokens(actions_B)
        log_ratio = float(self._choices.log_ratio(np.arange(1), actions_B, self.policy)[0])
        shaping = -self._choices.kl_coef * log_ratio
        _, reward, terminated, truncated, info = self.env.step(tokens_B[0])
        self._choices.advance(tokens_B)
        info = {**info, "log_ratio": log_ratio, "kl_shaping": shaping}
        return self._choices.observation()[0], float(reward) + shaping, terminated, truncated, info


class _Choices:
    """The state of B episodes, and the tokens to choose from in each."""

    def __init__(self, env: Any, num_rows: int, k: int, kl_coef: float | None, show_choices: bool) -> None:
        base = env.unwrapped
        self.model: LanguageModel = base.language_model
        self.allowed_V, self.prompt_length = allowed_tokens(env), base.episode_config.prompt_length
        most = int(self.allowed_V.sum())
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= most:
            raise UserError(f"k is {k!r}, expected 1 to {most}, the number of tokens that may be played")
        self.k = int(k)
        self.kl_coef = float(base.kl_coef if kl_coef is None else kl_coef)
        if not 0 <= self.kl_coef < float("inf"):
            raise UserError(f"kl_coef is {kl_coef!r}, expected a number from 0")
        self.show_choices = show_choices
        self._reader = IncrementalReader(self.model, num_rows)
        self._rows_B = np.arange(num_rows)
        self._begun = False
        self._found: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None = None

    def spaces(self) -> tuple[spaces.Box, spaces.Discrete[Any]]:
        """Observations and actions of a single environment."""
        size = self.model.width + (2 * self.k if self.show_choices else 0)
        return spaces.Box(-LARGEST, LARGEST, (size,), np.float32), spaces.Discrete(self.k)

    def begin(self, rows: npt.NDArray[np.intp], observation: Observation) -> None:
        """Read the prompts of episodes that have just begun."""
        prompt = slice(0, self.prompt_length)
        self._reader.restart(rows, observation["tokens"][rows, prompt], observation["mask"][rows, prompt])
        self._begun = True
        self._found = None

    def advance(self, tokens_B: npt.NDArray[np.int64]) -> None:
        """Read one more token of every episode."""
        self._reader.append(tokens_B)
        self._found = None

    @property
    def tokens_BK(self) -> npt.NDArray[np.int64]:
        """The token that each action stands for."""
        return self._table[0]

    @property
    def logprobs_BK(self) -> npt.NDArray[np.float32]:
        """The reference's log-probabilities of these."""
        return self._table[1]

    @property
    def _table(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Both, computed on first use: where an episode ends they are not needed."""
        if self._found is None:
            hidden_BD = self._reader.hidden_BD
            # The head may be in another precision than the float32 that is kept.
            dtype = self.model.module.get_output_embeddings().weight.dtype
            tokens, logprobs = likeliest(self.model, hidden_BD.to(dtype), self.allowed_V, self.k)
            self._found = tokens.cpu().numpy(), logprobs.cpu().numpy()
        return self._found

    def observation(self) -> States:
        """The observations, (B, D), a copy."""
        states: States = self._reader.hidden_BD.cpu().numpy()
        if not self.show_choices:
            return states.copy()
        return np.concatenate([states, self.logprobs_BK, self.tokens_BK.astype(np.float32)], 1)

    def chosen_tokens(self, actions_B: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The tokens that actions stand for, (B,)."""
        if not self._begun:
            raise UserError("step was called before reset; call reset() first")
        if actions_B.shape != self._rows_B.shape or actions_B.dtype.kind not in "iu":
            raise ActionError(
                f"actions have shape {actions_B.shape} and dtype {actions_B.dtype}, "
                f"expected whole numbers of shape {self._rows_B.shape}"
            )
        if actions_B.min() < 0 or actions_B.max() >= self.k:
            row = int(np.argmax((actions_B < 0) | (actions_B >= self.k)))
            raise ActionError(f"action {actions_B[row]} (sub-environment {row}) is none of 0 to {self.k - 1}")
        tokens: npt.NDArray[np.int64] = self.tokens_BK[self._rows_B, actions_B]
        return tokens

    def log_ratio(
        self, rows: npt.NDArray[np.intp], actions_N: npt.NDArray[np.int64], policy: AgentLogProbs | None
    ) -> npt.NDArray[np.float64]:
        """Log agent - log reference of the actions of some rows, (N,); the agent's part is 0 without a policy."""
        reference_N = self.logprobs_BK[rows, actions_N].astype(np.float64)
        if policy is None or not len(rows):
            return -reference_N
        return np.asarray(policy(self.observation()[rows], actions_N), np.float64) - reference_N

    def state_dict(self) -> dict[str, Any] | None:
        return self._reader.state_dict() if self._begun else None

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        self._begun = state is not None
        if state is not None:
            self._reader.load_state_dict(state)
            self._found = None
