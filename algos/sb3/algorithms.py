"""Stable-Baselines3's PPO, A2C and DQN, unmodified, as contestants.

The language model stays as it is. An agent sees its hidden state and chooses among the k tokens that it finds likeliest
(:mod:`bakeoff.envs.text_generation.top_tokens`); what learns is the agent's own small network. One update is one of the
agent's own cycles of collecting and training (``learn`` for that many steps). It plays in the same environment as every
other contestant, so the same meter counts what it spends; a state that passes through its network with gradients is one
trained token.

What is set from outside, and nothing else: schedules follow the budget, gamma is 1, the reward is charged for the KL with
the agent's own log-probabilities, and a completion that is cut at the length limit is not bootstrapped.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from torch import nn

from bakeoff.algos.core.algorithm import Algorithm, Contestant, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.sb3.agent import (
    EpisodeStatsCallback,
    action_logprobs,
    agent_state,
    chosen_logprobs,
    count_trained_states,
    load_agent_state,
    save_agent,
    trained_network,
)
from bakeoff.algos.sb3.contestant import TopTokensContestant
from bakeoff.algos.sb3.policy import TiltPolicy, token_vectors
from bakeoff.envs.text_generation.sb3_vec_env import SB3VecEnv
from bakeoff.envs.text_generation.top_tokens import VectorTopTokens, allowed_tokens
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv
from bakeoff.seeding import OwnRandomness

LANGUAGE_MODEL_SETTINGS = ("trainable", "micro_batch_size", "gradient_checkpointing")
"""Settings of the base class about training the language model, which is not trained here."""


class SB3Config(AlgorithmConfig):
    """Settings that all three agents have."""

    k: PositiveInt = 32
    """How many of the reference's likeliest tokens there are to choose from; all of them where the vocabulary has fewer."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Step size at the start."""
    net_arch: tuple[PositiveInt, ...] = (64, 64)
    """Widths of the hidden layers of the agent's network (of the actor's and of the critic's)."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount per token; below 1 changes the objective."""

    @model_validator(mode="after")
    def _the_language_model_stays(self) -> SB3Config:
        for name in LANGUAGE_MODEL_SETTINGS:
            if getattr(self, name) != AlgorithmConfig.model_fields[name].default:
                raise ValueError(
                    f'"{name}" is about training the language model, which stays as it is here; leave it out'
                )
        return self


class SB3Algorithm(Algorithm):
    """One of Stable-Baselines3's agents while it learns."""

    Config = SB3Config
    config: SB3Config
    starts_as_reference: ClassVar[bool] = False
    stays_without_signal: ClassVar[bool] = False
    saves_language_model: ClassVar[bool] = False
    runs_as_several: ClassVar[bool] = False
    samples: ClassVar[bool] = True
    """Whether it acts by sampling from a distribution, and is charged for its own log-probability."""

    def __init__(self, config: SB3Config, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator) -> None:
        super().__init__(config, policy, envs, rng)
        self.share = 0.0
        """Spent share of the budget when the update began."""
        seed = int(torch.randint(2**31, (1,), generator=rng))
        self.randomness = OwnRandomness(seed)
        k = min(config.k, int(allowed_tokens(envs).sum()))
        self.choices = VectorTopTokens(envs, k, kl_coef=self.kl_coef, show_choices=self.shows_choices)
        with self.randomness:
            self.agent = self.make_agent(SB3VecEnv(self.choices))
        self.agent.action_space.seed(seed)
        self.agent.set_logger(Logger(folder=None, output_formats=[]))
        count_trained_states(self.agent, envs.meter)
        if self.samples:
            self.choices.policy = chosen_logprobs(self.agent)
        self.watch = EpisodeStatsCallback(envs.num_envs, self.cycle, lambda: envs.queries_left)

    @abstractmethod
    def make_agent(self, envs: SB3VecEnv) -> BaseAlgorithm:
        """The agent, as one makes it from Stable-Baselines3."""

    @property
    @abstractmethod
    def cycle(self) -> int:
        """Steps of the vector environment in one cycle of collecting and training."""

    @property
    def shows_choices(self) -> bool:
        """Whether observations end in the tokens to choose from and their log-probabilities."""
        return False

    def update(self) -> Mapping[str, float]:
        """One cycle of the agent's own; it ends early, and is not learned from, where the next step could exceed the budget."""
        self.share = self.envs.progress
        with self.randomness, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You have specified a mini-batch size")  # the last may be smaller
            learn: Any = self.agent.learn  # its annotation of log_interval lacks the None that it takes
            steps = self.cycle * self.envs.num_envs
            learn(steps, callback=self.watch, log_interval=None, reset_num_timesteps=False)
        played = {**self.watch.take(self.kl_coef), "kl_coef": self.kl_coef}
        if self.watch.cut:  # the agent's figures are those of the cycle before
            return played
        logged = {name.rpartition("/")[2]: float(value) for name, value in self.agent.logger.name_to_value.items()}
        finite = {name: value for name, value in logged.items() if math.isfinite(value)}
        return {**played, **finite}

    def rate(self, remaining: float) -> float:
        """The learning rate by the budget; the agent's own idea of what remains ends with each cycle."""
        initial = self.config.learning_rate
        return initial * (1 - self.share) if self.config.learning_rate_schedule == "linear" else initial

    def contestant(self) -> Contestant:
        """The agent's distribution over the k tokens."""
        return TopTokensContestant(
            self.envs.language_model,
            allowed_tokens(self.envs),
            self.choices.k,
            lambda states_NS: action_logprobs(self.agent, states_NS),
            show_choices=self.shows_choices,
        )

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """The agent's weights."""
        return iter(trained_network(self.agent).parameters())

    def save(self, folder: str | Path) -> None:
        """Save the agent's network: ``agent.safetensors`` and ``agent.json``."""
        description = {
            "agent": type(self.agent).__name__,
            "reference": self.envs.language_model.name,
            "k": self.choices.k,
            "observation": int(self.agent.observation_space.shape[0]),  # type: ignore[index]
            "settings": self.config.model_dump(mode="json"),
        }
        save_agent(self.agent, folder, description)

    def state_dict(self) -> dict[str, Any]:
        """What the base class collects, without the language model, which stays; and the agent's."""
        state = super().state_dict()
        del state["policy"]
        return {**state, "agent": agent_state(self.agent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        super().load_state_dict({name: value for name, value in state.items() if name != "agent"})
        load_agent_state(self.agent, state["agent"])


class ActorCriticConfig(SB3Config):
    """Settings of the two actor-critic agents."""

    start: Literal["uniform", "reference"] = "uniform"
    """`uniform`: Stable-Baselines3's own policy class, which starts near the uniform distribution over the k tokens;
    `reference`: ours, which starts as the reference restricted to them and tilts it by what the tokens are."""
    n_steps: PositiveInt | None = None
    """Tokens of each completion in one update; default: the length limit, a whole completion at most."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """GAE's lambda."""
    ent_coef: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus; anything above 0 changes the objective, whose entropy is in the reward already."""
    vf_coef: float = Field(default=0.5, ge=0)
    """Weight of the value loss."""
    max_grad_norm: float = Field(default=0.5, gt=0)
    """Gradients are scaled down to this global norm."""
    normalize_advantage: bool = True
    """Scale advantages to mean 0 and deviation 1."""


class _ActorCritic(SB3Algorithm):
    Config = ActorCriticConfig
    data_source: ClassVar[DataSource] = DataSource.ONLINE
    config: ActorCriticConfig

    @property
    def cycle(self) -> int:
        return self.config.n_steps or self.envs.max_new_tokens

    @property
    def shows_choices(self) -> bool:
        return self.config.start == "reference"

    def _shared_settings(self) -> dict[str, Any]:
        config = self.config
        networks: dict[str, Any] = {"net_arch": list(config.net_arch)}
        if config.start == "reference":
            networks["token_vectors_VD"] = token_vectors(self.envs.language_model)
        return {
            "policy": TiltPolicy if config.start == "reference" else "MlpPolicy",
            "learning_rate": self.rate,
            "n_steps": self.cycle,
            "gamma": config.gamma,
            "gae_lambda": config.gae_lambda,
            "ent_coef": config.ent_coef,
            "vf_coef": config.vf_coef,
            "max_grad_norm": config.max_grad_norm,
            "normalize_advantage": config.normalize_advantage,
            "policy_kwargs": networks,
            "device": "cpu",
        }


class SB3PPOConfig(ActorCriticConfig):
    """Settings of Stable-Baselines3's PPO."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Step size at the start (its own default is 3e-4)."""
    epochs: PositiveInt = 10
    """Passes over each batch (its `n_epochs`)."""
    minibatches: PositiveInt = 4
    """Gradient steps per pass: its `batch_size` is `batch_size` x `n_steps` over this."""
    clip: float = Field(default=0.2, gt=0)
    """How far the probability ratio may leave 1 (its `clip_range`)."""
    target_kl: float | None = Field(default=None, gt=0)
    """End the passes once KL(old || new) per token exceeds 1.5 times this; null: never."""


class SB3PPO(_ActorCritic):
    """Stable-Baselines3's PPO, choosing among the reference's likeliest tokens."""

    Config = SB3PPOConfig
    config: SB3PPOConfig

    def make_agent(self, envs: SB3VecEnv) -> BaseAlgorithm:
        """A ``stable_baselines3.PPO``."""
        config = self.config
        size = max(2, math.ceil(self.cycle * envs.num_envs / config.minibatches))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
            return PPO(
                env=envs, batch_size=size, n_epochs=config.epochs, clip_range=config.clip, target_kl=config.target_kl,
                **self._shared_settings(),
            )  # fmt: skip


class SB3A2CConfig(ActorCriticConfig):
    """Settings of Stable-Baselines3's A2C."""

    batch_size: PositiveInt = 16
    """Completions side by side; A2C takes one gradient step for each `batch_size` x `n_steps` tokens."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Step size at the start (its own default is 7e-4)."""
    n_steps: PositiveInt | None = 5
    """Tokens of each completion in one update; the length limit where null."""
    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    """GAE's lambda."""
    normalize_advantage: bool = False
    """Scale advantages to mean 0 and deviation 1."""
    use_rms_prop: bool = True
    """RMSprop, as in the paper, or Adam."""


class SB3A2C(_ActorCritic):
    """Stable-Baselines3's A2C, choosing among the reference's likeliest tokens."""

    Config = SB3A2CConfig
    config: SB3A2CConfig

    def make_agent(self, envs: SB3VecEnv) -> BaseAlgorithm:
        """A ``stable_baselines3.A2C``."""
        return A2C(env=envs, use_rms_prop=self.config.use_rms_prop, **self._shared_settings())


class SB3DQNConfig(SB3Config):
    """Settings of Stable-Baselines3's DQN."""

    learning_rate: float = Field(default=3e-3, gt=0)
    """Step size at the start (its own default is 1e-4)."""
    max_grad_norm: float = Field(default=10.0, gt=0)
    """Gradients are scaled down to this global norm."""
    buffer_size: PositiveInt = 50_000
    """Transitions (tokens) that are kept for replay."""
    learning_starts: PositiveInt = 1_000
    """Transitions of uniformly random actions before it learns."""
    minibatch_size: PositiveInt = 128
    """Transitions in a gradient step (its `batch_size`)."""
    train_freq: PositiveInt = 1
    """Steps of the vector environment in one update: `batch_size` transitions each."""
    gradient_steps: PositiveInt = 32
    """Gradient steps in one update."""
    tau: float = Field(default=1.0, gt=0, le=1)
    """How far the target network moves to the other at each of its updates."""
    target_update_interval: PositiveInt = 256
    """Transitions between updates of the target network."""
    exploration_initial_eps: float = Field(default=1.0, ge=0, le=1)
    """Share of uniformly random actions at first."""
    exploration_final_eps: float = Field(default=0.05, ge=0, le=1)
    """Share of uniformly random actions in the end."""
    exploration_fraction: float = Field(default=0.3, gt=0, le=1)
    """Share of the budget over which it falls from the one to the other."""


class SB3DQN(SB3Algorithm):
    """Stable-Baselines3's DQN, choosing among the reference's likeliest tokens."""

    Config = SB3DQNConfig
    data_source: ClassVar[DataSource] = DataSource.REPLAY
    config: SB3DQNConfig
    samples: ClassVar[bool] = False

    @property
    def cycle(self) -> int:
        """Its `train_freq`."""
        return self.config.train_freq

    def make_agent(self, envs: SB3VecEnv) -> BaseAlgorithm:
        """A ``stable_baselines3.DQN``."""
        config = self.config
        same = (
            "buffer_size", "learning_starts", "gamma", "tau", "train_freq", "gradient_steps", "target_update_interval",
            "max_grad_norm", "exploration_initial_eps", "exploration_final_eps", "exploration_fraction",
        )  # fmt: skip
        agent = DQN(
            "MlpPolicy", envs, learning_rate=self.rate, batch_size=config.minibatch_size,
            policy_kwargs={"net_arch": list(config.net_arch)}, device="cpu", **{name: getattr(config, name) for name in same},
        )  # fmt: skip
        agent.exploration_schedule = self.epsilon
        return agent

    def epsilon(self, remaining: float) -> float:
        """The share of random actions, by the budget."""
        config = self.config
        share = min(1.0, self.share / config.exploration_fraction)
        return config.exploration_initial_eps + share * (config.exploration_final_eps - config.exploration_initial_eps)
