"""The language model that learns, and the frozen reference it started from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bakeoff import distributed
from bakeoff.algos.core.config import AlgorithmConfig
from bakeoff.algos.core.trainable_weights import make_trainable
from bakeoff.envs.language_model import logprobs
from bakeoff.envs.language_model.completions import Completions, PromptBatch
from bakeoff.envs.language_model.model import LanguageModel
from bakeoff.envs.meter import Meter

if TYPE_CHECKING:
    from bakeoff.envs.tasks.exact.enumeration import Enumeration
    from bakeoff.envs.text_generation.vector_env import TextGenerationVectorEnv


class Policy:
    """A trainable version of the task's language model beside the original.

    It starts as the reference exactly: same weights, same distribution.
    """

    def __init__(
        self,
        reference: LanguageModel,
        meter: Meter,
        config: AlgorithmConfig | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Args:
        reference: the task's model; it is frozen here and never changed.
        meter: counts the tokens that pass through a trained module with gradients enabled.
        config: says which weights move; all of them where it is left out.
        generator: draws what starts at random (adapters).

        Raises:
            ConfigError, ModelError: the model cannot be trained in this way, and why.
        """
        self.config = AlgorithmConfig() if config is None else config
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self._trainable = make_trainable(reference, self.config, generator)
        self.model, self.reference, self.meter = self._trainable.model, self._trainable.reference, meter
        count_trained_tokens(self.model, meter)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights that move."""
        return (p for p in self.model.module.parameters() if p.requires_grad)

    def sample(self, prompts: PromptBatch, max_new_tokens: int, generator: torch.Generator) -> Completions:
        """One completion for each prompt, from the true distribution (no temperature, no filter)."""
        return self.model.sample(prompts, max_new_tokens, generator)

    def generate(self, envs: TextGenerationVectorEnv, generator: torch.Generator) -> Completions:
        """One completion for each prompt that ``envs`` now shows."""
        return self.sample(envs.prompt_batch, envs.max_new_tokens, generator)

    @torch.no_grad()
    def logprobs(self, completions: Completions) -> Tensor:
        """Log-probability of each completion token under the policy as it is, shape (B, T), 0 where the mask is False.

        Read in one pass, as in an update and as the reference's: what the sampler says, token by token, is the same number with
        another rounding, and in half precision far enough from it to be taken for a signal.
        """
        return self.model.token_logprobs(completions)

    @torch.no_grad()
    def reference_logprobs(self, completions: Completions) -> Tensor:
        """Log-probability of each completion token under the reference, shape (B, T), 0 where the mask is False."""
        return self.reference.token_logprobs(completions)

    @torch.no_grad()
    def statistics(self, completions: Completions) -> dict[str, Tensor]:
        """The policy beside the reference on its own completions, each (B,); one forward pass of each model.

        Returns:
            `kl`, an unbiased estimate of KL(policy || reference) in nats from each completion: the exact per-token KL summed
            along the sample. By the chain rule its mean is the sequence KL, and its variance is lower than that of the summed
            log-ratio (Rao-Blackwell). `entropy`, mean nats per token. `reference_nll`, the reference's negative log-likelihood,
            nats per token.
        """
        if distributed.should_shard(len(completions)):
            return distributed.map_sharded(len(completions), lambda rows: self.statistics(completions.select(rows)))
        mask = completions.mask_BT.to(self.model.device)
        ours, theirs = self.model.completion_hidden(completions), self.reference.completion_hidden(completions)
        used, tokens_N = mask[:, : ours.shape[1]], completions.tokens_BT.to(self.model.device)[mask]
        found = logprobs.kl_entropy_and_other_logprobs(
            self.model.head, ours[used], self.reference.head, theirs[used], tokens_N, self.model.vocab_size
        )
        zeros, lengths_B = torch.zeros(mask.shape, device=mask.device), mask.sum(1).clamp_min(1)
        kl_B, entropy_B, logprob_B = (zeros.masked_scatter(mask, values_N).sum(1) for values_N in found)
        return {"kl": kl_B, "entropy": entropy_B / lengths_B, "reference_nll": -logprob_B / lengths_B}

    def sequence_logprobs(self, enumeration: Enumeration) -> Tensor:
        """Log-probability of every enumerable completion, shape (prompts, N)."""
        return enumeration.sequence_logprobs(self.model)

    def save(self, folder: str | Path) -> None:
        """Save so that plain transformers loads it; adapters are merged in, and saved for PEFT in ``folder/adapter``."""
        self._trainable.save(folder)

    def state_dict(self) -> dict[str, Any]:
        """The weights that move, by name."""
        return {name: p.detach() for name, p in self.model.module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, parameter in self.model.module.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(state[name])


def count_trained_tokens(model: LanguageModel, meter: Meter) -> None:
    """Count every real token that is read by ``model`` while gradients are enabled, whatever code calls it.

    Completions count with their prompts and to their last token, row by row, however the model reads them: a prompt that
    several of them share is read once where that is faster, which depends on the model's width, the device and the
    minibatch, and a last token that predicts nothing is left out where no longer row is beside it. Other calls of the
    model's trunk, such as a library's trainer makes, count what passes through it.
    """
    rows_are_counted = False

    @contextmanager
    def rows(tokens: int) -> Iterator[None]:
        nonlocal rows_are_counted
        distributed.count(meter.add_trained, tokens)
        rows_are_counted = True
        try:
            yield
        finally:
            rows_are_counted = False

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled() and not rows_are_counted:
            mask = kwargs.get("attention_mask")
            tokens: Tensor = args[0] if args else kwargs["input_ids"]
            rows, columns = tokens.shape[:2]  # a mask covers what is in the cache too, which does not pass here
            if isinstance(mask, Tensor) and mask.dim() == 2:
                distributed.count(meter.add_trained, int(mask[:, -columns:].sum()))
            else:
                distributed.count(meter.add_trained, rows * columns)

    model.trunk.register_forward_pre_hook(before, with_kwargs=True)
    model.row_counter = rows
