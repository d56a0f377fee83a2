"""The example that a reader checks our PPO against: the same numbers on the same completions, and it learns by itself."""

import copy
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bakeoff.algos.core.build import build
from bakeoff.algos.core.rollout import collect
from bakeoff.envs import Budget, make_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "ppo_from_scratch.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ppo_from_scratch", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_same_advantages_losses_and_gradient(example: ModuleType) -> None:
    task = make_task("exact")
    ppo = build("ppo", {"learning_rate": 1e-2}, task, Budget(reward_queries=10_000), seed=3)
    ppo.update()  # so that neither policy nor values are where they started
    model = ppo.policy.model
    critic = example.Critic(task.language_model.module).requires_grad_(True)
    critic.trunk.load_state_dict(ppo.critic.network.trunk.state_dict())
    critic.head.load_state_dict(ppo.critic.head.state_dict())

    rollout = collect(ppo.policy, ppo.envs, ppo.rng)
    batch = ppo.estimate_advantages(rollout, ppo.score(rollout))
    completions = rollout.completions
    tokens_BS, mask_BS = completions.sequence_tokens_BS, completions.sequence_mask_BS.long()
    mask_BT, prompt_length = completions.mask_BT.long(), completions.prompts.mask_BP.shape[1]

    def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    with torch.no_grad():
        old_BT = example.token_logprobs(model.module, tokens_BS, mask_BS, prompt_length) * mask_BT
        reference_BT = example.token_logprobs(task.language_model.module, tokens_BS, mask_BS, prompt_length) * mask_BT
        values_BT = critic(tokens_BS, mask_BS, prompt_length) * mask_BT
    same(rollout.logprobs_BT, old_BT)
    rewards_BT = example.shaped_rewards(rollout.scores_B.float(), old_BT - reference_BT, mask_BT, task.kl_coef)
    advantages_BT, returns_BT = example.estimate_advantages(rewards_BT, values_BT, mask_BT)
    same(batch.old_values_BT, values_BT)
    same(batch.advantages_BT, advantages_BT)
    same(batch.returns_BT, returns_BT)

    with torch.no_grad():  # away from where it sampled, so that clipping and both branches of the value loss count
        generator = torch.Generator().manual_seed(1)
        for weights in (*model.module.parameters(), *ppo.critic.parameters()):
            weights.add_(0.05 * torch.randn(weights.shape, generator=generator))
            weights.grad = None  # what the last step left
    critic.trunk.load_state_dict(ppo.critic.network.trunk.state_dict())
    critic.head.load_state_dict(ppo.critic.head.state_dict())
    policy = copy.deepcopy(model.module)
    ours, _ = ppo.loss(batch, torch.arange(len(rollout)))
    ours.backward()

    new_BT = example.token_logprobs(policy, tokens_BS, mask_BS, prompt_length)
    assert (((new_BT - old_BT).exp() - 1).abs() * mask_BT > example.CLIP).float().mean() > 0.05  # it does clip
    theirs = example.policy_loss(new_BT, old_BT, advantages_BT, mask_BT)
    values_BT_now = critic(tokens_BS, mask_BS, prompt_length)
    theirs = theirs + example.VALUE_COEF * example.value_loss(values_BT_now, values_BT, returns_BT, mask_BT)
    theirs.backward()
    same(ours, theirs)
    pairs = [*zip(model.module.parameters(), policy.parameters(), strict=True)]
    pairs += zip(ppo.critic.network.trunk.parameters(), critic.trunk.parameters(), strict=True)
    pairs += zip(ppo.critic.head.parameters(), critic.head.parameters(), strict=True)
    assert sum(float(a.grad.abs().sum()) > 0 for a, _ in pairs if a.grad is not None) > 20
    for mine, other in pairs:
        if mine.grad is not None or other.grad is not None:
            same(mine.grad, other.grad)


@pytest.mark.slow
def test_it_passes_nine_tenths_alone(example: ModuleType) -> None:
    assert example.main(seed=0) > 0.9
