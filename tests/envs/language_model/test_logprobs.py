"""Log-probabilities and entropies by chunks: every path gives what autograd gives on the whole matrix."""

from collections.abc import Iterator

import pytest
import torch

from bakeoff.envs.language_model import linear_logprobs, logprobs
from bakeoff.envs.language_model.forward import LOWEST_LOGIT
from bakeoff.envs.language_model.linear_logprobs import LinearHead

N, D, V = 37, 8, 50
FORBIDDEN = torch.tensor([0, 49])


@pytest.fixture
def numbers() -> Iterator[torch.Generator]:
    return torch.Generator().manual_seed(0)


def draw(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("entropy_gradient", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("rows", [5, 1000])
@pytest.mark.parametrize("kept", [0, 2**27])
def test_every_path_gives_what_autograd_gives(
    numbers: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    entropy_gradient: bool,
    frozen: bool,
    plain: bool,
    rows: int,
    kept: int,
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", V * rows)
    monkeypatch.setattr(linear_logprobs, "KEPT_ELEMENTS", kept)
    monkeypatch.setattr(linear_logprobs, "KEPT_WIDTH", 0)
    weight, hidden = draw(numbers, V, D).requires_grad_(), draw(numbers, N, D).requires_grad_()
    by_logprob, by_entropy = draw(numbers, N), draw(numbers, N) * entropy_gradient
    tokens = torch.randint(1, 49, (N,), generator=numbers)

    table = (hidden @ weight.t()).index_fill(1, FORBIDDEN, LOWEST_LOGIT).log_softmax(1)
    expected = table.gather(1, tokens[:, None])[:, 0], -(table.exp() * table).sum(1)
    gradients = torch.autograd.grad((by_logprob * expected[0] + by_entropy * expected[1]).sum(), [hidden, weight])

    weight.requires_grad_(not frozen)
    exact = LinearHead(weight, FORBIDDEN, LOWEST_LOGIT)
    head = exact if plain else lambda x: exact(x)
    got = logprobs.logprobs_and_entropy(head, hidden, tokens, V, entropy_gradient=entropy_gradient, frozen_head=frozen)
    assert got[1].requires_grad == entropy_gradient
    (by_logprob * got[0] + by_entropy * got[1]).sum().backward()
    for value, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(value, wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(hidden.grad, gradients[0], atol=1e-12, rtol=0)
    assert weight.grad is None if frozen else torch.allclose(weight.grad, gradients[1], atol=1e-12, rtol=0)
    torch.testing.assert_close(logprobs.chosen_logprobs(head, hidden, tokens, V), expected[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("kept", "passes"), [(2**27, 1), (0, 2)])
def test_a_linear_head_limits_rows_at_once(
    numbers: torch.Generator, monkeypatch: pytest.MonkeyPatch, kept: int, passes: int
) -> None:
    rows: list[int] = []
    compute = LinearHead.into
    monkeypatch.setattr(LinearHead, "into", lambda self, h, out: rows.append(len(h)) or compute(self, h, out))
    monkeypatch.setattr(linear_logprobs, "KEPT_ELEMENTS", kept)
    monkeypatch.setattr(linear_logprobs, "KEPT_WIDTH", 0)
    weight, hidden = draw(numbers, V, D).requires_grad_(), draw(numbers, N, D)
    head = LinearHead(weight, FORBIDDEN, LOWEST_LOGIT)
    head.token_logprobs(hidden, torch.ones(N, dtype=torch.long), 5, entropy=True)[:, 0].sum().backward()
    assert max(rows) == 5
    assert sum(rows) == passes * N


def test_the_chunk_grows_with_the_width_up_to_four_times() -> None:
    rows = [logprobs.rows_in_a_chunk(torch.empty(1, width), 2**15) for width in (8, 24, 96, 384, 4096)]
    assert rows == [32, 32, 64, 128, 128]
    assert logprobs.rows_in_a_chunk(torch.empty(1, 24), 2**30) == 1
    assert logprobs.rows_in_a_chunk(torch.empty(1, 24, device="meta"), 2**15) == 2**11


@pytest.mark.parametrize(("width", "passes"), [(95, 2), (96, 1)])
def test_a_narrow_model_keeps_no_probabilities(monkeypatch: pytest.MonkeyPatch, width: int, passes: int) -> None:
    rows: list[int] = []
    compute = LinearHead.into
    monkeypatch.setattr(LinearHead, "into", lambda self, h, out: rows.append(len(h)) or compute(self, h, out))
    head = LinearHead(torch.ones(V, width, requires_grad=True), FORBIDDEN, LOWEST_LOGIT)
    both = head.token_logprobs(torch.ones(3, width), torch.ones(3, dtype=torch.long), 3, entropy=False)
    both[:, 0].sum().backward()
    assert rows == [3] * passes
