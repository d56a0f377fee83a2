"""PPO for a language model in one file: plain torch and transformers, and bakeoff's Gymnasium environment to play in.

Run it with no arguments. A test holds its advantages, losses and gradients to those of `bakeoff.algos.ppo`. Names end in
shapes: B completions, T completion tokens, S prompt and completion tokens, D hidden width.
"""

import copy
import time

import numpy as np
import torch
from torch import Tensor, nn

from bakeoff.envs import TextGenerationEnv, make_task

UPDATES, BATCH, EPOCHS, MINIBATCHES = 160, 64, 4, 2
RATE, WARMUP_STEPS, CLIP, VALUE_CLIP, VALUE_COEF, LAMBDA = 2e-3, 20, 0.2, 0.2, 0.1, 0.95


class Critic(nn.Module):
    """V(state): a second network that starts as the reference, with a linear head that starts at zero."""

    def __init__(self, reference: nn.Module) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(reference.base_model)
        self.head = nn.Linear(reference.config.hidden_size, 1)
        self.head.load_state_dict({name: torch.zeros_like(value) for name, value in self.head.state_dict().items()})

    def forward(self, tokens_BS: Tensor, mask_BS: Tensor, prompt_length: int) -> Tensor:
        """The value before each completion token, shape (B, T)."""
        hidden_BSD = self.trunk(tokens_BS, **positions(mask_BS)).last_hidden_state
        return self.head(hidden_BSD[:, prompt_length - 1 : -1])[..., 0]


def positions(mask_BS: Tensor) -> dict[str, Tensor]:
    """What a model has to know of rows that are padded on the left."""
    return {"attention_mask": mask_BS, "position_ids": (mask_BS.cumsum(1) - 1).clamp_min(0)}


def token_logprobs(model: nn.Module, tokens_BS: Tensor, mask_BS: Tensor, prompt_length: int) -> Tensor:
    """Log-probability of each completion token given what stands before it, shape (B, T)."""
    logits_BTV = model(tokens_BS, **positions(mask_BS)).logits[:, prompt_length - 1 : -1]
    return logits_BTV.log_softmax(-1).gather(2, tokens_BS[:, prompt_length:, None])[..., 0]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the places where the mask is True."""
    return (values * mask).sum() / mask.sum()


def estimate_advantages(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Whitened advantages by GAE (Schulman et al. 2016) at gamma 1, and the returns that the critic learns; each (B, T)."""
    advantages_BT = torch.zeros_like(rewards_BT)
    following_B = next_value_B = torch.zeros(len(rewards_BT))
    for t in reversed(range(rewards_BT.shape[1])):
        errors_B = rewards_BT[:, t] + next_value_B - values_BT[:, t]
        following_B = (errors_B + LAMBDA * following_B) * mask_BT[:, t]
        next_value_B = values_BT[:, t] * mask_BT[:, t]
        advantages_BT[:, t] = following_B
    returns_BT = (advantages_BT + values_BT) * mask_BT
    centered_BT = advantages_BT - masked_mean(advantages_BT, mask_BT)
    return centered_BT * torch.rsqrt(masked_mean(centered_BT**2, mask_BT) + 1e-8) * mask_BT, returns_BT


def shaped_rewards(scores_B: Tensor, log_ratios_BT: Tensor, mask_BT: Tensor, kl_coef: float) -> Tensor:
    """The KL penalty at every token, and the score less the batch's mean at the last one, shape (B, T) (Ziegler et al. 2019)."""
    rewards_BT = -kl_coef * log_ratios_BT * mask_BT
    return rewards_BT.scatter_add(1, mask_BT.sum(1, keepdim=True) - 1, (scores_B - scores_B.mean())[:, None])


def policy_loss(logprobs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The clipped surrogate (Schulman et al. 2017, equation 7)."""
    ratio_BT = (logprobs_BT - old_BT).exp()
    clipped_BT = ratio_BT.clamp(1 - CLIP, 1 + CLIP)
    return -masked_mean(torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT), mask_BT)


def value_loss(values_BT: Tensor, old_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Half the squared error, of the value or of the value clipped around the old one, whichever is larger."""
    clipped_BT = old_BT + (values_BT - old_BT).clamp(-VALUE_CLIP, VALUE_CLIP)
    return 0.5 * masked_mean(torch.maximum((values_BT - returns_BT) ** 2, (clipped_BT - returns_BT) ** 2), mask_BT)


def stacked(observations: list[dict[str, np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask of several environments as two tensors."""
    return tuple(torch.from_numpy(np.stack([one[key] for one in observations])).long() for key in ("tokens", "mask"))


@torch.no_grad()
def play(model: nn.Module, envs: list[TextGenerationEnv]) -> tuple[Tensor, Tensor, Tensor]:
    """One episode in each environment: token ids and mask, each (B, S), and the rewards (B,)."""
    observations = [env.reset()[0] for env in envs]
    scores_B, running = torch.zeros(len(envs)), list(range(len(envs)))
    while running:
        tokens_NS, mask_NS = stacked([observations[row] for row in running])
        last_N = mask_NS.shape[1] - 1 - mask_NS.flip(1).argmax(1)  # where each text ends so far
        logits_NV = model(tokens_NS, **positions(mask_NS)).logits[torch.arange(len(running)), last_N]
        actions = torch.multinomial(logits_NV.softmax(-1), 1)[:, 0].tolist()
        for row, action in zip(list(running), actions, strict=True):
            observations[row], reward, terminated, truncated, _ = envs[row].step(action)
            if terminated or truncated:  # cut at the length limit or ended: the reward is complete either way
                scores_B[row] = reward
                running.remove(row)
    return *stacked(observations), scores_B


def main(seed: int = 0) -> float:
    """Train on the task `exact` and return its normalized score: 0 is the reference, 1 the known optimum."""
    torch.manual_seed(seed)
    task = make_task("exact")
    reference = task.language_model.module.eval()
    policy, critic = copy.deepcopy(reference).requires_grad_(True), Critic(reference).requires_grad_(True)
    envs = [TextGenerationEnv.from_task(task) for _ in range(BATCH)]
    for row, env in enumerate(envs):
        env.reset(seed=seed * BATCH + row)
    adam = torch.optim.Adam(parameters := [*policy.parameters(), *critic.parameters()], lr=RATE, betas=(0.9, 0.99))
    steps = UPDATES * EPOCHS * MINIBATCHES
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda k: min(1, (k + 1) / WARMUP_STEPS) * (1 - k / steps))
    prompt_length = envs[0].observation_space["tokens"].shape[0] - task.max_new_tokens
    for update in range(UPDATES):
        tokens_BS, mask_BS, scores_B = play(policy, envs)
        mask_BT = mask_BS[:, prompt_length:]
        with torch.no_grad():
            old_BT = token_logprobs(policy, tokens_BS, mask_BS, prompt_length)
            reference_BT = token_logprobs(reference, tokens_BS, mask_BS, prompt_length)
            values_BT = critic(tokens_BS, mask_BS, prompt_length)
        rewards_BT = shaped_rewards(scores_B, old_BT - reference_BT, mask_BT, task.kl_coef)
        advantages_BT, returns_BT = estimate_advantages(rewards_BT, values_BT * mask_BT, mask_BT)
        for _ in range(EPOCHS):
            for rows in torch.randperm(BATCH).tensor_split(MINIBATCHES):
                new_BT = token_logprobs(policy, tokens_BS[rows], mask_BS[rows], prompt_length)
                new_values_BT = critic(tokens_BS[rows], mask_BS[rows], prompt_length)
                loss = policy_loss(new_BT, old_BT[rows], advantages_BT[rows], mask_BT[rows])
                error = value_loss(new_values_BT, values_BT[rows], returns_BT[rows], mask_BT[rows])
                adam.zero_grad()
                (loss + VALUE_COEF * error).backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                adam.step()
                schedule.step()
        kl = float(((old_BT - reference_BT) * mask_BT).sum(1).mean())
        print(f"update {update + 1}: reward {float(scores_B.mean()):.2f}, KL {kl:.2f} nats", flush=True)
    trained = copy.copy(task.language_model)
    trained.module = policy
    return task.enumeration.objective(task.enumeration.sequence_logprobs(trained))["normalized_score"]


if __name__ == "__main__":
    start = time.perf_counter()
    print(f"normalized score {main():.3f} in {time.perf_counter() - start:.0f} s")
