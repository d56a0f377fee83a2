"""The memory of completions: what it keeps, what it draws, what it weighs."""

import pytest
import torch

from bakeoff.algos.core.replay_buffer import SMALLEST_PRIORITY, ReplayBuffer, draw_different
from bakeoff.algos.core.rollout import Rollout
from bakeoff.envs.language_model.completions import Completions, PromptBatch

PROMPT_WIDTH, LENGTH = 3, 4


def rollout(first: int, count: int, prompts: int = 2) -> Rollout:
    """Row i: prompt i % prompts, its length 1 + i % 4, tokens and score equal to i."""
    number = torch.arange(first, first + count)
    mask = torch.arange(LENGTH) < (1 + number % LENGTH)[:, None]
    prompt_mask = torch.arange(PROMPT_WIDTH) >= PROMPT_WIDTH - (1 + number % 2)[:, None]
    tokens = torch.where(mask, number[:, None], 0)
    batch = PromptBatch(torch.where(prompt_mask, number[:, None], 0), prompt_mask, number % prompts)
    logprobs = -0.1 * mask * number[:, None]
    return Rollout(Completions(batch, tokens, mask, logprobs), number.float(), logprobs, 2 * logprobs)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_oldest_make_room() -> None:
    replay = ReplayBuffer(8)
    for first in (0, 5, 10):
        replay.add(rollout(first, 5))
    assert len(replay) == 8
    assert sorted(replay.batch(torch.arange(8)).scores_B.tolist()) == list(range(7, 15))
    size = replay.num_bytes
    replay.add(rollout(15, 20))  # more at once than there is room for
    assert replay.num_bytes == size
    assert sorted(replay.batch(torch.arange(8)).scores_B.tolist()) == list(range(27, 35))


def test_what_comes_out_is_what_went_in() -> None:
    replay, given = ReplayBuffer(16), rollout(1, 6)
    replay.add(given)
    batch = replay.batch(torch.tensor([4, 0]))  # rows 5 and 1: lengths 2 and 2, prompts of two tokens
    expected = given.select(torch.tensor([4, 0]))
    assert batch.completions.tokens_BT.tolist() == [[5, 5], [1, 1]]
    assert batch.completions.mask_BT.tolist() == [[True, True], [True, True]]
    assert batch.completions.prompts.tokens_BP.tolist() == [[5, 5], [1, 1]]
    torch.testing.assert_close(batch.logprobs_BT, expected.logprobs_BT[:, :2])
    torch.testing.assert_close(batch.reference_logprobs_BT, expected.reference_logprobs_BT[:, :2])
    torch.testing.assert_close(batch.completions.prompts.indices_B, expected.completions.prompts.indices_B)


def test_memory_of_a_row_is_independent_of_the_vocabulary() -> None:
    replay = ReplayBuffer(100)
    replay.add(rollout(0, 10))
    # Tokens and two log-probabilities of four bytes, prompt tokens, two lengths, priority; index and score of eight.
    assert replay.num_bytes == 100 * (4 * (3 * LENGTH + PROMPT_WIDTH + 2 + 1) + 8 + 8)


def test_uniform_draws_are_uniform_and_without_repetition() -> None:
    replay, source = ReplayBuffer(10), generator()
    replay.add(rollout(0, 10))
    counts = torch.zeros(10)
    for _ in range(2000):
        rows = replay.sample(3, source)
        assert len(rows.unique()) == 3
        counts[rows] += 1
    # 600 expected each, deviation sqrt(2000 * .3 * .7) = 20.5.
    assert (counts - 600).abs().max() < 4 * 20.5
    assert sorted(replay.sample(99, source).tolist()) == list(range(10))


def test_priorities_and_their_correction() -> None:
    replay, source = ReplayBuffer(4, priority_alpha=0.5), generator()
    replay.add(rollout(0, 4))
    torch.testing.assert_close(replay.chances(), torch.full((4,), 0.25))
    replay.prioritize(torch.arange(4), torch.tensor([0.0, -1.0, 4.0, 9.0]))
    weights = (torch.tensor([0.0, 1.0, 4.0, 9.0]) + SMALLEST_PRIORITY) ** 0.5  # about 0, 1, 2, 3
    torch.testing.assert_close(replay.chances(), weights / weights.sum())
    first = torch.tensor([int(replay.sample(1, source)) for _ in range(3000)]).bincount(minlength=4) / 3000
    torch.testing.assert_close(first, replay.chances(), atol=0.04, rtol=0)
    # One row: its weight is 1/(N p).
    row, weight = replay.weighted_sample(1, source)
    torch.testing.assert_close(weight, 1 / (4 * replay.chances()[row]))
    assert replay.weighted_sample(3, source, beta=0.0)[1].tolist() == [1.0] * 3
    # All rows: each is drawn in any case, so none weighs less.
    assert replay.weighted_sample(9, source)[1].tolist() == [1.0] * 4


def test_three_of_four_by_hand() -> None:
    # Three times the chances are 2.1, .45, .3 and .15: the first is drawn in any case, the others share two draws as
    # 1, 2/3 and 1/3, which makes the second certain, too.
    chances = torch.tensor([0.7, 0.15, 0.1, 0.05], dtype=torch.float64)
    source, drawn = generator(), torch.zeros(4)
    for _ in range(3000):
        rows, inclusion = draw_different(chances, 3, source)
        expected = torch.tensor([1.0, 1.0, 2 / 3, 1 / 3], dtype=torch.float64)
        torch.testing.assert_close(inclusion, expected[rows])
        drawn[rows] += 1
    torch.testing.assert_close(drawn / 3000, expected.float(), atol=0.035, rtol=0)  # four standard errors


@pytest.mark.parametrize(("count", "group_size"), [(64, 1), (256, 1), (64, 8), (96, 32)])
@pytest.mark.parametrize("alpha", [0.6, 1.0])
def test_weights_take_priorities_back(alpha: float, count: int, group_size: int) -> None:
    replay, source, draws = ReplayBuffer(256, priority_alpha=alpha), generator(), 1000
    replay.add(rollout(0, 256, prompts=7))  # 36 or 37 rows each
    replay.prioritize(torch.arange(256), torch.randn(256, generator=source).exp())
    top = replay.chances() >= replay.chances().sort().values[-25]
    sums = []
    for _ in range(draws):
        rows, weights = replay.weighted_sample(count, source, group_size=group_size)
        assert len(rows.unique()) == len(rows) <= count
        # Weighted means over the sample, of an indicator and of 1: those over the buffer are 25/256 and 1.
        sums.append(torch.stack([(weights * top[rows]).mean(), weights.mean()]))
    found = torch.stack(sums).double()
    error = 4.5 * found.std(0) / draws**0.5 + 1e-6
    assert ((found.mean(0) - torch.tensor([25 / 256, 1.0])).abs() < error).all()
    assert float(error[0]) < 0.02


@pytest.mark.parametrize("group_size", [1, 4])
def test_without_priorities_draws_are_as_ever_and_weigh_alike(group_size: int) -> None:
    replay = ReplayBuffer(64)
    replay.add(rollout(0, 60, prompts=10))
    rows, weights = replay.weighted_sample(12, generator(3), group_size=group_size)
    assert weights.tolist() == [1.0] * len(rows)
    assert rows.tolist() == replay.sample(12, generator(3), group_size=group_size).tolist()
    if group_size == 1:
        assert rows.tolist() == torch.multinomial(torch.full((60,), 1 / 60), 12, generator=generator(3)).tolist()


def test_new_rows_come_first() -> None:
    replay = ReplayBuffer(8, priority_alpha=1.0)
    replay.add(rollout(0, 4))
    replay.prioritize(torch.arange(4), torch.tensor([0.1, 0.1, 5.0, 0.1]))
    replay.add(rollout(4, 1))
    assert float(replay.chances()[4]) == pytest.approx(float(replay.chances()[2]))


def test_groups_are_completions_of_one_prompt() -> None:
    replay, source = ReplayBuffer(64), generator()
    replay.add(rollout(0, 60, prompts=10))  # six of each prompt
    for _ in range(20):
        rows = replay.sample(12, source, group_size=4)
        prompts, counts = replay.batch(rows).completions.prompts.indices_B.unique(return_counts=True)
        assert len(rows.unique()) == len(rows) <= 12
        # Three anchors; those of one prompt share its six completions.
        assert all(count in (4, 6) for count in counts.tolist())
        assert 1 <= len(prompts) <= 3


def test_its_state_is_the_filled_part_and_comes_back() -> None:
    replay = ReplayBuffer(1000, priority_alpha=1.0)
    replay.add(rollout(0, 6))
    replay.prioritize(torch.arange(6), torch.arange(6.0))
    state = replay.state_dict()
    assert all(len(values) == 6 for values in state["rows"].values())
    other = ReplayBuffer(1000, priority_alpha=1.0)
    other.load_state_dict(state)
    for buffer in (replay, other):
        buffer.add(rollout(6, 3))
    assert replay.sample(5, generator(1)).tolist() == other.sample(5, generator(1)).tolist()
    rows = torch.arange(9)
    torch.testing.assert_close(other.batch(rows).scores_B, replay.batch(rows).scores_B)
    torch.testing.assert_close(other.chances(), replay.chances())
