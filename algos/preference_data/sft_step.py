"""Supervised fine-tuning's one step, which raises the likelihood of given completions; shared by all algorithms that imitate."""

from __future__ import annotations

from torch import Tensor

from bakeoff.algos.core.optimizer import Optimizer
from bakeoff.algos.core.policy import Policy
from bakeoff.algos.losses.advantages import masked_mean
from bakeoff.envs.language_model.completions import Completions


def imitate(policy: Policy, optimizer: Optimizer, completions: Completions, rows: Tensor) -> dict[str, float]:
    """One step down the mean negative log-likelihood of the tokens of some completions.

    Args:
        policy: the model that learns.
        optimizer: over the policy's parameters, with an update started.
        completions: what to imitate; prompt tokens are read and not learned.
        rows: which of them, shape (N,).

    Returns:
        `nll` and `entropy` in nats per token before the step, `grad_norm` and `learning_rate`.
    """
    for part, share in optimizer.micro_batches(rows, completions.lengths_B[rows]):
        chosen = completions.select(part)
        logprobs_BT, entropy_BT, _ = policy.model.token_outputs(chosen, entropy_gradient=False)
        mask_BT = chosen.mask_BT.to(logprobs_BT.device)
        nll = -masked_mean(logprobs_BT, mask_BT)
        (share * nll).backward()  # type: ignore[no-untyped-call]
        optimizer.log(share, {"nll": nll, "entropy": masked_mean(entropy_BT, mask_BT)})
    return optimizer.step()
