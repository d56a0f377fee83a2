"""What our contract needs of a Stable-Baselines3 agent and its interface does not give: its distribution, its complete state
without pickle, and a count of what it trains on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor, nn

from bakeoff.envs.meter import Meter

COUNTERS = (
    "num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining", "_total_timesteps", "_n_calls",
    "exploration_rate",
)  # fmt: skip
"""Plain numbers of an agent that decide what it does next, where it has them."""
REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
"""The arrays of a replay buffer."""


# ---------------------------------------------------------------- its distribution


@torch.no_grad()
def action_logprobs(agent: BaseAlgorithm, states_NS: Tensor) -> Tensor:
    """Log-probability of every action in each state, (N, k): of the distribution that an actor-critic agent samples from.

    A DQN has none; what it has learned is its greedy policy, so its best action gets 0 and all others -inf.
    """
    states_NS = states_NS.to(agent.device)
    if isinstance(agent, DQN):
        best_N1 = agent.q_net(states_NS).argmax(1, keepdim=True)
        return torch.full((len(states_NS), int(agent.action_space.n)), -torch.inf).scatter(1, best_N1.cpu(), 0.0)  # type: ignore[attr-defined]
    policy: Any = agent.policy
    logits: Tensor = policy.get_distribution(states_NS).distribution.logits
    return logits.log_softmax(1)


def chosen_logprobs(agent: BaseAlgorithm) -> Callable[[npt.NDArray[Any], npt.NDArray[Any]], npt.NDArray[Any]]:
    """What :attr:`bakeoff.envs.text_generation.top_tokens.VectorTopTokens.policy` takes, for an actor-critic agent."""

    def logprobs(states_NS: npt.NDArray[Any], actions_N: npt.NDArray[Any]) -> npt.NDArray[Any]:
        table_NK = action_logprobs(agent, torch.from_numpy(states_NS)).cpu()
        found: npt.NDArray[Any] = table_NK.gather(1, torch.from_numpy(actions_N).long()[:, None])[:, 0].numpy()
        return found

    return logprobs


# ---------------------------------------------------------------- what it trains on


def count_trained_states(agent: BaseAlgorithm, meter: Meter) -> None:
    """Count every state that passes with gradients enabled through the network that learns: one trained token each time."""

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            meter.add_trained(len(args[0]))

    network: Any = agent.q_net if isinstance(agent, DQN) else agent.policy.mlp_extractor
    network.register_forward_pre_hook(before)


def trained_network(agent: BaseAlgorithm) -> nn.Module:
    """The network that gradients move: a DQN's Q network (not its target), or the whole policy."""
    return agent.q_net if isinstance(agent, DQN) else agent.policy


class EpisodeStatsCallback(BaseCallback):
    """Adds up the episodes that end, by Stable-Baselines3's own callback, and ends a cycle that could exceed the budget."""

    def __init__(self, num_envs: int, cycle: int, queries_left: Callable[[], int | None]) -> None:
        """Args:
        num_envs: B sub-environments; all of them may end in one step.
        cycle: steps of one cycle of collecting.
        queries_left: reward queries that the budget has left; None where it does not limit them.
        """
        super().__init__()
        self._num_envs, self._cycle, self._queries_left = num_envs, cycle, queries_left
        self._steps = 0
        self.cut = False
        """True where the last cycle was ended before the agent learned from it."""
        self._log_ratio_B, self._length_B = np.zeros(num_envs), np.zeros(num_envs)
        self._ended: list[tuple[float, float, float]] = []

    def _on_rollout_start(self) -> None:
        self._steps, self.cut = 0, False

    def _on_step(self) -> bool:
        self._steps += 1
        infos = self.locals["infos"]
        self._log_ratio_B += [info["log_ratio"] for info in infos]
        self._length_B += 1
        for row in np.flatnonzero(self.locals["dones"]):
            reward = float(self.locals["rewards"][row]) - float(infos[row]["kl_shaping"])
            self._ended.append((reward, float(self._log_ratio_B[row]), float(self._length_B[row])))
            self._log_ratio_B[row] = self._length_B[row] = 0
        left = self._queries_left()
        self.cut = left is not None and left < self._num_envs and self._steps < self._cycle
        return not self.cut

    def take(self, kl_coef: float) -> dict[str, float]:
        """Means over the episodes that ended since the last call, under the names that all algorithms use; none without any."""
        if not self._ended:
            return {}
        reward, kl, length = (float(mean) for mean in np.mean(self._ended, 0))
        self._ended = []
        return {"reward": reward, "kl": kl, "objective": reward - kl_coef * kl, "length": length}

    def state_dict(self) -> dict[str, Any]:
        """The episodes in progress."""
        return {"log_ratio": self._log_ratio_B.tolist(), "length": self._length_B.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._log_ratio_B, self._length_B = np.array(state["log_ratio"]), np.array(state["length"])


# ---------------------------------------------------------------- its state


def agent_state(agent: BaseAlgorithm) -> dict[str, Any]:
    """Everything that decides what an agent does next, as tensors, arrays and numbers; copies."""
    policy: Any = agent.policy
    state: dict[str, Any] = {
        "policy": {name: tensor.clone() for name, tensor in policy.state_dict().items()},
        "optimizer": {
            str(number): {name: value.clone() if isinstance(value, Tensor) else value for name, value in entry.items()}
            for number, entry in policy.optimizer.state_dict()["state"].items()
        },
        "counters": {name: getattr(agent, name) for name in COUNTERS if hasattr(agent, name)},
        "actions": agent.action_space.np_random.bit_generator.state,
        "last_observation": _copied(agent._last_obs),
        "last_starts": _copied(agent._last_episode_starts),
    }
    if isinstance(agent, OffPolicyAlgorithm):
        buffer: Any = agent.replay_buffer
        filled = buffer.buffer_size if buffer.full else buffer.pos
        arrays = {name: getattr(buffer, name)[:filled].copy() for name in REPLAY}
        state["replay"] = {"position": buffer.pos, "full": buffer.full, "arrays": arrays}
    return state


def load_agent_state(agent: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Restore what :func:`agent_state` returned."""
    policy: Any = agent.policy
    policy.load_state_dict(state["policy"])
    groups = policy.optimizer.state_dict()["param_groups"]
    entries = {
        int(number): {name: value.clone() if isinstance(value, Tensor) else value for name, value in entry.items()}
        for number, entry in state["optimizer"].items()
    }
    policy.optimizer.load_state_dict({"state": entries, "param_groups": groups})
    for name, value in state["counters"].items():
        setattr(agent, name, value)
    agent.action_space.np_random.bit_generator.state = state["actions"]
    agent._last_obs, agent._last_episode_starts = _copied(state["last_observation"]), _copied(state["last_starts"])
    if isinstance(agent, OffPolicyAlgorithm):
        buffer: Any = agent.replay_buffer
        buffer.pos, buffer.full = state["replay"]["position"], state["replay"]["full"]
        for name, values in state["replay"]["arrays"].items():
            getattr(buffer, name)[: len(values)] = values


def save_agent(agent: BaseAlgorithm, folder: str | Path, description: Mapping[str, Any]) -> None:
    """Write the networks' weights (``agent.safetensors``) and what they are (``agent.json``).

    Stable-Baselines3's own zip file holds pickles, which run code when they are opened; these files do not.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in trained_network(agent).state_dict().items()}
    save_file(weights, folder / "agent.safetensors")
    (folder / "agent.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _copied(array: Any) -> Any:
    return None if array is None else np.array(array)
