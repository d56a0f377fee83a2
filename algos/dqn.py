"""DQN on tokens: the textbook method (Mnih et al. 2015), included to show why it is not used on language models.

Epsilon-greedy behavior, a replay memory, a slowly moving target network, one-step targets r + max_a Q(s', a), double estimation
(van Hasselt et al. 2016) and dueling streams (Wang et al. 2016). Q is the language model's own output: beta times its logits,
around a state value where it is dueling. So it starts at beta log ref(a|s), and the saved model answers as DQN does when it is
decoded greedily.

The reward of a token is beta log ref(a|s), and the score comes with the last one: for a policy without randomness that is the
objective, since KL(pi || ref) is then -log ref of its only completion. What DQN can reach is what the best single completion of
each prompt is worth. `kl_in_reward: false` is the method as it comes.

Departures from the papers: updates follow batches of whole completions; Adam; the target follows by Polyak averaging.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from bakeoff import distributed
from bakeoff.algos.core.algorithm import Algorithm, Contestant, DataSource
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.guided_decoding import GuidedDecoder
from bakeoff.algos.core.optimizer import Optimizer, mean_metrics
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.core.replay_buffer import ReplayBuffer
from bakeoff.algos.core.rollout import Rollout
from bakeoff.algos.core.target_network import TargetModel, soft_update
from bakeoff.algos.losses.advantages import masked_mean
from bakeoff.algos.losses.value import max_backup, next_state_values, terminal_rewards
from bakeoff.envs.language_model.forward import LOWEST_LOGIT
from bakeoff.envs.language_model.logprobs import over_chunks
from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


class DQNConfig(AlgorithmConfig):
    """Settings of DQN."""

    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the rate rises linearly; none, as in the textbook."""
    double: bool = True
    """The online network chooses the next token and the target network judges it; false: the target does both."""
    dueling: bool = True
    """A state value and, around it, the tokens' advantages; false: one number per token."""
    kl_in_reward: bool = True
    """Each token is rewarded with kl_coef * log ref(token): the objective, for a policy that is greedy."""
    explore: Literal["reference", "uniform"] = "reference"
    """What a token that is not greedy is drawn from; the textbook's is `uniform`."""
    epsilon_start: float = Field(default=1.0, ge=0, le=1)
    """Share of tokens that are not greedy, at first."""
    epsilon_end: float = Field(default=0.05, ge=0, le=1)
    """The same, from `epsilon_until` on."""
    epsilon_until: float = Field(default=0.3, gt=0, le=1)
    """Share of the budget over which it falls linearly."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount per token; below 1 changes the objective."""
    tau: float = Field(default=0.2, gt=0, le=1)
    """How far the target network moves towards the network after each step."""
    replay_capacity: PositiveInt = 16_384
    """Completions that the replay buffer keeps."""
    train_batch_size: PositiveInt = 128
    """Completions per gradient step, drawn from the replay buffer."""
    gradient_steps: PositiveInt = 16
    """Gradient steps after each batch of fresh completions."""
    priority_alpha: float = Field(default=0.0, ge=0, le=1)
    """Completions are drawn in proportion to (largest TD error in it)^this; 0 draws uniformly."""
    priority_beta: float = Field(default=1.0, ge=0, le=1)
    """How much importance weights take back of that; 1 is all."""


class DQN(Algorithm):
    """Deep Q-learning with tokens as actions."""

    Config = DQNConfig
    data_source: ClassVar[DataSource] = DataSource.REPLAY
    stays_without_signal: ClassVar[bool] = False
    config: DQNConfig

    def __init__(self, config: DQNConfig, policy: Policy, envs: TextGenerationVectorEnv, rng: torch.Generator) -> None:
        super().__init__(config, policy, envs, rng)
        self.replay = ReplayBuffer(config.replay_capacity, priority_alpha=config.priority_alpha)
        self.scale = self.kl_coef if self.kl_coef > 0 else 1.0
        self.target = TargetModel(policy)
        self.level, self.target_level = (_level(policy.model.width).to(policy.model.device) for _ in range(2))
        self.optimizer = Optimizer(
            [*policy.parameters(), *self.level.parameters()],
            config,
            policy.model.width,
            planned_updates=envs.planned_updates,
        )
        self.trained = False

    def update(self) -> Mapping[str, float]:
        """Collect, store, learn."""
        self.optimizer.start_update(self.envs.progress)
        epsilon = self.epsilon
        rollout = self.collect()
        self.replay.add(rollout)
        steps = [self.step() for _ in range(self.config.gradient_steps)]
        self.trained = True
        return {
            "reward": float(rollout.scores_B.mean()),
            "length": float(rollout.completions.lengths_B.float().mean()),
            **mean_metrics(steps),
            "epsilon": epsilon,
            "replay_size": float(len(self.replay)),
        }

    @property
    def queries_needed(self) -> int:
        """One completion."""
        return 1

    @property
    def epsilon(self) -> float:
        """Share of tokens that are not greedy now."""
        done = min(1.0, self.envs.progress / self.config.epsilon_until)
        return self.config.epsilon_start + done * (self.config.epsilon_end - self.config.epsilon_start)

    def collect(self) -> Rollout:
        """Complete a batch of prompts, epsilon-greedily."""
        self.envs.begin_batch()
        actor = GuidedDecoder(self.policy, self.behavior(self.epsilon))
        completions = actor.sample(self.envs.prompt_batch, self.envs.max_new_tokens, self.rng)
        assert completions.logprobs_BT is not None
        scores_B = self.envs.play(completions).rewards_B
        return Rollout(completions, scores_B, completions.logprobs_BT, self.policy.reference_logprobs(completions))

    def step(self) -> dict[str, float]:
        """One step on completions drawn from the replay buffer; the target network follows."""
        rows, weights_B = self.replay.weighted_sample(
            self.config.train_batch_size, self.rng, beta=self.config.priority_beta
        )
        batch, weights_B = self.replay.batch(rows, self.policy.model.device), weights_B.to(self.policy.model.device)
        errors_B = torch.zeros(len(rows))

        for part, share in self.optimizer.micro_batches(torch.arange(len(rows)), batch.completions.lengths_B.cpu()):
            loss, errors, figures = self.loss(batch.select(part), weights_B[part])
            (share * loss).backward()  # type: ignore[no-untyped-call]
            errors_B[part] = errors.cpu()
            self.optimizer.log(share, figures)
        logs = self.optimizer.step()
        if self.config.priority_alpha > 0:
            self.replay.prioritize(rows, distributed.all_reduce_rows(errors_B))
        self.target.soft_update(self.config.tau)
        soft_update(self.target_level.parameters(), self.level.parameters(), self.config.tau)
        return logs

    def loss(self, part: Rollout, weights_B: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Huber loss of the TD errors, averaged over tokens; the largest error of each completion (B,); and figures."""
        completions, mask_BT = part.completions, part.completions.mask_BT
        hidden_BTD = self.policy.model.completion_hidden(completions)
        used, tokens_N = mask_BT[:, : hidden_BTD.shape[1]], completions.tokens_BT[mask_BT]
        chosen_N = self.chosen_values(hidden_BTD[used], tokens_N)
        with torch.no_grad():
            theirs_BTD = self.target.model.completion_hidden(completions)
            best_N = self.best_values(hidden_BTD[used], theirs_BTD[used])
            best_BT = torch.zeros(mask_BT.shape, device=mask_BT.device).masked_scatter(mask_BT, best_N)
            rewards_BT = terminal_rewards(part.scores_B, mask_BT)
            if self.config.kl_in_reward:
                rewards_BT = rewards_BT + self.kl_coef * part.reference_logprobs_BT
            targets_BT = rewards_BT + self.config.gamma * next_state_values(best_BT, mask_BT)
        chosen_BT = torch.zeros_like(targets_BT).masked_scatter(mask_BT, chosen_N)
        losses_BT = nn.functional.smooth_l1_loss(chosen_BT, targets_BT, reduction="none")
        loss = masked_mean(weights_B[:, None] * losses_BT, mask_BT)
        errors_BT = ((chosen_BT - targets_BT) * mask_BT).abs().detach()
        figures = {"q_loss": loss, "td_error": masked_mean(errors_BT, mask_BT), "value": masked_mean(best_BT, mask_BT)}
        return loss, errors_BT.amax(1), figures

    def chosen_values(self, hidden_ND: Tensor, tokens_N: Tensor) -> Tensor:
        """Q of the chosen tokens, shape (N,), a chunk of the vocabulary's rows at a time."""

        def one(hidden: Tensor, tokens: Tensor) -> Tensor:
            return self._action_values(self.policy.model.head(hidden), self.level, hidden).gather(1, tokens[:, None])

        return over_chunks(one, (hidden_ND, tokens_N), self.policy.model.vocab_size)[:, 0]

    def best_values(self, online_ND: Tensor, target_ND: Tensor) -> Tensor:
        """The value of each state by the target network, shape (N,)."""
        head = self.policy.model.head

        def one(online: Tensor, target: Tensor) -> Tensor:
            values_NV = self._action_values(self.target.model.head(target), self.target_level, target)
            return max_backup(values_NV, head(online) if self.config.double else None)[:, None]

        return over_chunks(one, (online_ND, target_ND), self.policy.model.vocab_size)[:, 0]

    def behavior(self, epsilon: float) -> EpsilonGreedy:
        """The greedy token, or with probability epsilon one to explore: log-probabilities (N, V) from hidden states."""
        return EpsilonGreedy(self.policy, epsilon, self.config.explore)

    def contestant(self) -> Contestant:
        """The reference until anything was learned, then the greedy policy."""
        return GuidedDecoder(self.policy, self.behavior(0.0)) if self.trained else self.policy

    def _action_values(self, logits_NV: Tensor, level: nn.Module, hidden_ND: Tensor) -> Tensor:
        if not self.config.dueling:
            return self.scale * logits_NV
        values: Tensor = level(hidden_ND.float()) + self.scale * (logits_NV - logits_NV.amax(1, keepdim=True))
        return values


class EpsilonGreedy:
    """Log-probabilities of an epsilon-greedy policy over the language model's logits."""

    def __init__(self, policy: Policy, epsilon: float, explore: str) -> None:
        self._policy, self._epsilon, self._explore = policy, epsilon, explore

    def __call__(self, ours_ND: Tensor, theirs_ND: Tensor) -> Tensor:
        """Hidden states of the model and of the reference, each (N, D), to log-probabilities (N, V)."""
        logits = self._policy.model.head(ours_ND)
        if self._explore == "reference":
            chances = self._policy.reference.head(theirs_ND).softmax(1)
        else:
            allowed_V = self._policy.model.allowed_V.float()
            chances = (allowed_V / allowed_V.sum()).expand_as(logits)
        greedy = torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), 1.0)
        mixture = self._epsilon * chances + (1 - self._epsilon) * greedy
        return mixture.log().clamp_min(LOWEST_LOGIT)


def _level(width: int) -> nn.Module:
    """The state value's head: zero at the start, in float32."""
    level = nn.Linear(width, 1)
    nn.init.zeros_(level.weight)
    nn.init.zeros_(level.bias)
    return level
