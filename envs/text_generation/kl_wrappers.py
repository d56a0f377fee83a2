"""The KL penalty as a per-token reward, for agents that do not have one of their own.

The objective is E[reward] - beta KL(policy || reference), and KL(policy || reference) is the expected sum over a
completion's tokens of log policy - log reference. So each token's reward is changed by

    - beta * (log policy(token) - log reference(token)),

and an agent that maximizes the plain return maximizes the objective. The wrapper takes the policy's part from a
function that the agent's owner gives. Without one it adds + beta * log reference(token) alone; the rest of the
objective is beta times the policy's entropy, so such an agent has to bring an entropy bonus of beta itself.
``ent_coef=beta`` in Stable-Baselines3 comes close: it sees the entropy in the states visited, not how actions change
which are visited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import Env, Wrapper
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.text_generation.episodes import Observation
from bakeoff.errors import UserError

LogProbs = Callable[[Observation, npt.NDArray[Any]], npt.NDArray[np.floating[Any]]]
"""From B observations, as the vector environment gives them, and B tokens to each token's log-probability, (B,)."""


class ModelLogProbs:
    """Log-probabilities under a language model, by a forward pass over the whole observation.

    It costs one forward pass per step without a key-value cache; fine for small models, and for checking faster ways.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        """Keep the model; it is not changed."""
        self.language_model = language_model

    @torch.no_grad()
    def __call__(self, observation: Observation, actions: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
        """Log-probability of each action after its observation, shape (B,)."""
        model = self.language_model
        mask_BS = torch.from_numpy(observation["mask"]).bool()
        width = mask_BS.shape[1]
        last_B = width - 1 - mask_BS.flip(1).int().argmax(1)  # the newest real token of each row
        used = int(last_B.max()) + 1
        tokens_BS = torch.from_numpy(observation["tokens"])[:, :used].to(model.device)
        hidden_BSD = model.hidden(tokens_BS, mask_BS[:, :used].to(model.device))
        logprobs_BV = model.head(hidden_BSD[torch.arange(len(last_B)), last_B.to(model.device)]).log_softmax(1)
        chosen_B = logprobs_BV.gather(1, torch.from_numpy(actions).long().to(model.device)[:, None])[:, 0]
        logprobs: npt.NDArray[np.floating[Any]] = chosen_B.double().cpu().numpy()
        return logprobs


class VectorKLShaping(VectorWrapper[Observation, npt.ArrayLike, Observation, npt.ArrayLike, npt.NDArray[Any]]):
    """A vector environment in which every token is charged for its distance to the reference.

    ``infos["kl_shaping"]`` says what each reward was changed by.
    """

    def __init__(
        self,
        env: VectorEnv[Observation, npt.ArrayLike, npt.NDArray[Any]],
        kl_coef: float | None = None,
        *,
        reference: LogProbs | None = None,
        policy: LogProbs | None = None,
    ) -> None:
        """Wrap an environment.

        Args:
            env: a :class:`bakeoff.envs.text_generation.vector_env.TextGenerationVectorEnv`, possibly wrapped.
            kl_coef: beta, in reward units per nat; the environment's own by default.
            reference: the reference's log-probabilities; by default those of the environment's language model.
            policy: the agent's log-probabilities at the time it acts; without it see this module's first lines.

        Raises:
            UserError: a negative coefficient.
        """
        super().__init__(env)
        self._shaping = _Shaping(env.unwrapped, kl_coef, reference, policy)
        self._observation: Observation | None = None
        self._ended_B = np.zeros(env.num_envs, dtype=bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin new episodes; nothing is shaped."""
        mask_B = (options or {}).get("reset_mask")
        self._observation, infos = self.env.reset(seed=seed, options=options)
        self._ended_B[slice(None) if mask_B is None else mask_B] = False
        return _copy(self._observation), infos

    def step(
        self, actions: npt.ArrayLike
    ) -> tuple[Observation, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """Append one token to every completion, and charge for it."""
        before = self._observation
        self._observation, rewards, terminations, truncations, infos = self.env.step(actions)
        assert before is not None  # the wrapped environment refuses a step before reset
        # In NEXT_STEP mode a sub-environment that ended in the step before ignores this action.
        playing_B = ~self._ended_B
        shaping_B = np.zeros(self.num_envs)
        rows = {name: values[playing_B] for name, values in before.items()}
        if playing_B.any():
            shaping_B[playing_B] = self._shaping(rows, np.asarray(actions)[playing_B])
        if self.env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP:
            self._ended_B = np.asarray(terminations) | np.asarray(truncations)
        infos = {**infos, "kl_shaping": shaping_B, "_kl_shaping": playing_B}
        return _copy(self._observation), rewards + shaping_B, terminations, truncations, infos


class KLShaping(Wrapper[Observation, np.int64, Observation, np.int64], RecordConstructorArgs):
    """The KL penalty for a single environment; ``info["kl_shaping"]`` has the change of the reward."""

    def __init__(
        self,
        env: Env[Observation, np.int64],
        kl_coef: float | None = None,
        *,
        reference: LogProbs | None = None,
        policy: LogProbs | None = None,
    ) -> None:
        """Wrap a :class:`bakeoff.envs.text_generation.env.TextGenerationEnv`; arguments as for :class:`VectorKLShaping`."""
        RecordConstructorArgs.__init__(
            self, kl_coef=kl_coef, reference=reference, policy=policy, _disable_deepcopy=True
        )
        Wrapper.__init__(self, env)
        self._shaping = _Shaping(env.unwrapped, kl_coef, reference, policy)
        self._observation: Observation | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a new episode; nothing is shaped."""
        self._observation, info = self.env.reset(seed=seed, options=options)
        return _copy(self._observation), info

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append one token, and charge for it."""
        before = self._observation
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        assert before is not None  # the wrapped environment refuses a step before reset
        rows = {name: values[None] for name, values in before.items()}
        shaping = float(self._shaping(rows, np.asarray(action).reshape(1))[0])
        info = {**info, "kl_shaping": shaping}
        return _copy(self._observation), float(reward) + shaping, terminated, truncated, info


class _Shaping:
    """The penalty of a batch of tokens."""

    def __init__(self, env: Any, kl_coef: float | None, reference: LogProbs | None, policy: LogProbs | None) -> None:
        self.kl_coef = float(env.kl_coef if kl_coef is None else kl_coef)
        if not 0 <= self.kl_coef < float("inf"):
            raise UserError(f"kl_coef is {kl_coef!r}, expected a number from 0")
        self.reference = reference if reference is not None else ModelLogProbs(env.language_model)
        self.policy = policy

    def __call__(self, observation: Observation, actions: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        gain = np.asarray(self.reference(observation, actions), np.float64)
        if self.policy is not None:
            gain = gain - np.asarray(self.policy(observation, actions), np.float64)
        return self.kl_coef * gain


def _copy(observation: Observation) -> Observation:
    """The caller may write into what it gets; the wrapper still needs it for the next step."""
    return {name: values.copy() for name, values in observation.items()}
