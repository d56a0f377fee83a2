"""Two Q heads and a V head on a language model's hidden states, small whatever the vocabulary.

Q_i(s, a) = v_i(h) + e_a . q_i(h): e_a is the reference's own output embedding of token a, frozen and scaled to unit length on
average, so tokens that mean alike have like values, those that were never tried have the state's own level, and a head has
about 3 D^2 weights in place of V x D. The last layers start at zero: Q = V = 0, and nothing is guided yet. The first layers are
drawn apart, or two heads with the same start and the same data would stay the same.

Letters: N rows, D hidden width, V vocabulary, 2 the heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bakeoff.envs.language_model.logprobs import over_chunks
from bakeoff.envs.language_model.model import LanguageModel

HEADS = 2


class QHeads(nn.Module):
    """Action values of tokens and the value of states, in float32."""

    def __init__(self, reference: LanguageModel, generator: torch.Generator) -> None:
        """Args:
        reference: gives the token embeddings.
        generator: draws the first layers.
        """
        super().__init__()
        # Held in a tuple: the embedding is the reference's, no weight of this module.
        self._embedding = (reference.module.get_output_embeddings().weight,)
        rows = self._embedding[0].detach().float()
        self._scale = float(rows.norm(dim=1).mean().clamp_min(1e-6)) ** -1
        width = reference.width
        self.q = nn.ModuleList(_perceptron(width, width + 1, generator) for _ in range(HEADS))
        self.v = _perceptron(width, 1, generator)
        self.to(reference.device)

    def values(self, hidden: Tensor) -> Tensor:
        """V of each state, shape (..) of hidden states (.., D)."""
        values: Tensor = self.v(hidden)[..., 0]
        return values

    def chosen(self, hidden_BTD: Tensor, tokens_BT: Tensor) -> Tensor:
        """Q of one token a state, shape (B, T, 2): no vocabulary's width of anything."""
        rows_BTD = self._embedding[0].detach()[tokens_BT].float() * self._scale
        outputs = [head(hidden_BTD) for head in self.q]
        return torch.stack([o[..., 0] + (o[..., 1:] * rows_BTD).sum(-1) for o in outputs], -1)

    def action_values(self, hidden_ND: Tensor) -> Tensor:
        """Q of every token, shape (N, 2, V); for a chunk of rows."""
        outputs_N2D = torch.stack([head(hidden_ND) for head in self.q], -2)
        embedding_DV = self._embedding[0].detach().float().T * self._scale
        values: Tensor = outputs_N2D[..., :1] + outputs_N2D[..., 1:] @ embedding_DV
        return values

    def logsumexp(self, hidden_ND: Tensor) -> Tensor:
        """log sum_a exp Q(s, a), shape (N, 2), a chunk of the rows at a time."""
        vocabulary = HEADS * len(self._embedding[0])
        return over_chunks(lambda hidden: self.action_values(hidden).logsumexp(-1), (hidden_ND,), vocabulary)


def _perceptron(width: int, outputs: int, generator: torch.Generator) -> nn.Module:
    first, last = nn.Linear(width, 2 * width), nn.Linear(2 * width, outputs)
    with torch.no_grad():
        first.weight.copy_(torch.randn(first.weight.shape, generator=generator) / width**0.5)
        nn.init.zeros_(first.bias)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), first, nn.Tanh(), last)
