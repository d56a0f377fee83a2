"""Running one cell from its first evaluation to its last, resuming from its checkpoint where there is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bakeoff import distributed, seeding
from bakeoff.algos.core import build as algorithms
from bakeoff.algos.core.algorithm import Algorithm
from bakeoff.benchmarks.cells.task_cache import TaskCache
from bakeoff.benchmarks.cells.threads import keep_threads
from bakeoff.benchmarks.evaluation import score_records
from bakeoff.benchmarks.evaluation.audit import Audit, in_words, scored_so_far
from bakeoff.benchmarks.spec.cell import Cell
from bakeoff.benchmarks.storage.cell_store import SCHEMA, CellStore, ReadOnlyCellStore
from bakeoff.benchmarks.trackers import Tracking
from bakeoff.envs.meter import Budget, Meter
from bakeoff.errors import BakeoffError, ConfigError, RunFolderError

_IDLE_UPDATES = 10_000
"""Updates in a row that may leave every meter but the clock as it is before a cell counts as stuck."""
_CHECKPOINT_SHARE = 50
"""Between two checkpoints passes at least this many times what one takes, so that they cost 2 % at most."""


class Stopped(BakeoffError):  # noqa: N818 - not an error: the cell was asked to stop and resumes later
    """The cell was asked to stop; its checkpoint is written."""


@dataclass(frozen=True)
class Progress:
    """How far a cell has come."""

    share: float
    """Spent share of the budget, 0 to 1."""
    step: int
    """Updates so far."""
    metrics: Mapping[str, float]
    """The last evaluation's."""


def run_cell(
    cell: Cell,
    folder: Path,
    cache: TaskCache,
    *,
    checkpoint_every: float = 60.0,
    report: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    kept: Callable[[], None] = lambda: None,
    trackers: Sequence[str] = (),
    note: Callable[[str], None] = lambda text: None,
) -> float:
    """Run a cell to its end, from its last checkpoint where there is one; returns its wall-clock seconds so far.

    Args:
        cell: what to run.
        folder: its folder.
        cache: builds the task, or has it already.
        checkpoint_every: wall-clock seconds between checkpoints; 0 for one after every update.
        report: called with the progress after every update.
        should_stop: called after every update; True writes a checkpoint and raises :class:`Stopped`. An algorithm that
            cannot resume exactly writes none, and starts from its beginning the next time.
        kept: called when a checkpoint is on disk.
        trackers: where else the measurements go; see :mod:`bakeoff.benchmarks.trackers`.
        note: called with what was wrong with a checkpoint that was not taken up.

    Raises:
        Stopped: as asked.
        Exception: any that the task, the reward or the algorithm raises.
    """
    keep_threads(folder, cache)
    open_store = CellStore if distributed.is_first() else ReadOnlyCellStore
    with (
        closing(open_store(folder, cell.identity())) as store,
        closing(_Run(cell, store, cache, report, trackers)) as run,
    ):
        run.begin()
        if store.passed_over:
            note(f"resumed at update {run.step}: {store.passed_over}")
        last, cost = time.perf_counter(), 0.0
        while not distributed.broadcast(run.over):
            run.update()
            stopping = distributed.broadcast(should_stop())
            if stopping or time.perf_counter() - last >= max(checkpoint_every, cost if checkpoint_every else 0.0):
                start = time.perf_counter()
                if run.checkpoint():
                    kept()
                last = time.perf_counter()
                cost = _CHECKPOINT_SHARE * (last - start)
            if stopping:
                raise Stopped(f"{cell.title}: stopped after update {run.step}")
        run.finish()
        return run.seconds


def _checked(metrics: Any, title: str) -> Mapping[str, float]:
    """An update's metrics, checked to be a mapping of names to numbers."""
    if not isinstance(metrics, Mapping):
        raise BakeoffError(
            f"{title}: update() returned {type(metrics).__name__}, expected a mapping of names to numbers"
        )
    for name, value in metrics.items():
        try:
            float(value)
        except (TypeError, ValueError) as error:
            raise BakeoffError(f'{title}: update() returned {value!r} as metric "{name}", expected a number') from error
    return metrics


class _Run:
    """A cell while it runs. Everything in ``state`` below decides later numbers."""

    def __init__(
        self,
        cell: Cell,
        store: CellStore,
        cache: TaskCache,
        report: Callable[[Progress], None],
        trackers: Sequence[str],
    ) -> None:
        self.cell, self.store, self._report = cell, store, report
        self._tracking = Tracking(trackers, store.folder, cell)
        self._started, self._seconds_before = time.perf_counter(), 0.0
        self.evaluator = cache.evaluator(cell)
        self.budget = Budget.of(cell.budget)
        seed, task = cell.training_seed(), self.evaluator.task
        seeding.seed_global_randomness(seed)
        scored, began = scored_so_far(task), time.perf_counter()
        self.algorithm: Algorithm = algorithms.build(cell.algorithm, cell.settings, task, self.budget, seed)
        self.meter: Meter = self.algorithm.envs.meter
        self.meter.seconds += time.perf_counter() - began  # what its constructor does is its work, too
        needed, limit = self.algorithm.queries_needed, self.budget.reward_queries
        if limit is not None and limit < needed:
            raise ConfigError(
                cell.title,
                [
                    f"budget.reward_queries is {limit}, and an update needs {needed}; raise it, or lower batch_size or the "
                    "size of groups"
                ],
            )
        self.audit = Audit(task, self.algorithm, scored)
        ((self._every_meter, self._every),) = cell.evaluate["every"].items()
        self.step = self._evaluated_step = self._idle = 0
        self._far_enough = self._answers_with_more = False
        self._next_evaluation = self._every
        self._last_metrics: dict[str, float] = {}

    @property
    def over(self) -> bool:
        """Whether the budget is spent, the algorithm is finished, or the policy has reached its KL limit."""
        return self.algorithm.out_of_budget or self.algorithm.finished or self._far_enough

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of this attempt and of those before its checkpoint."""
        return self._seconds_before + time.perf_counter() - self._started

    def begin(self) -> None:
        """Restore the checkpoint, or record what this cell is and evaluate the untrained policy."""
        state = self.store.resume()
        if state is not None:
            try:
                self._load(state)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # another version's, a stranger's; what is half restored cannot go on
                self.store.drop_checkpoints()
                raise RunFolderError(
                    f"{self.cell.title}: its checkpoint cannot be restored ({type(error).__name__}: {error}), so it is removed; "
                    "the next attempt starts it again"
                ) from error
        self.store.write_config(self._config())
        self._tracking.start(self.step)
        if state is None:
            self.evaluate()
        self._report_progress()

    def update(self) -> None:
        """One update of the algorithm, and an evaluation when one is due."""
        before = {**self.meter.snapshot(), "seconds": None}
        with self.audit.watching(), self.meter.clock():
            metrics = _checked(self.algorithm.update(), self.cell.title)
        self.meter.seconds = distributed.broadcast(self.meter.seconds)
        distributed.check_together(self.algorithm.policy.parameters())
        self.step += 1
        self._record("train", metrics)
        self._watch_kl(metrics)
        records = self.algorithm.records()
        with self.audit.excused():
            written = score_records.with_scores(records, self.evaluator.task)
        self.store.append_records([{"step": self.step, **row} for row in written])
        self._idle = self._idle + 1 if before == {**self.meter.snapshot(), "seconds": None} else 0
        if self._idle >= _IDLE_UPDATES:
            raise BakeoffError(
                f"{self.cell.title}: {_IDLE_UPDATES} updates in a row spent nothing, yet it is not finished; "
                "let update() spend its budget, or finished return True"
            )
        spent = getattr(self.meter, self._every_meter)
        if spent >= self._next_evaluation:
            self._next_evaluation = (spent // self._every + 1) * self._every
            self.evaluate()
        self._report_progress()

    def finish(self) -> None:
        """Evaluate the final policy, unless that was just done, and keep its model."""
        if self._evaluated_step != self.step:
            self.evaluate()
        self.store.write_config(self._config())  # the contestant may have changed while it trained
        self.store.replace_model(self.algorithm.save)
        self._report_progress()

    def evaluate(self) -> None:
        """Append an evaluation of the contestant as it is now."""
        with self.audit.watching():  # what it spends to choose its contestant is its own
            contestant = self.algorithm.contestant()
        self._answers_with_more = contestant is not self.algorithm.policy
        with self.meter.pause(), self.audit.excused():
            found = self.evaluator.evaluate(contestant)
        self._evaluated_step, self._last_metrics = self.step, found.metrics
        self._record("eval", found.metrics)
        self._watch_kl(found.metrics)
        self.store.append_samples({"step": self.step, **row} for row in found.samples)

    def _record(self, phase: str, metrics: Mapping[str, float]) -> None:
        meter = self.meter.snapshot()
        self.store.append_metrics(self.step, phase, meter, metrics)
        self._tracking.log(self.step, phase, meter, metrics)

    def close(self) -> None:
        """Close the audit and the trackers."""
        self.audit.close()
        self._tracking.close()

    def _watch_kl(self, metrics: Mapping[str, float]) -> None:
        """Note when the policy has reached the KL that its settings allow; not every algorithm reports its KL while it
        trains, but every evaluation does."""
        limit = self.algorithm.config.kl_budget
        if limit is not None and metrics.get("kl", 0.0) >= limit:
            self._far_enough = True

    def checkpoint(self) -> bool:
        """Save all that decides later numbers, and return True; nothing where the algorithm cannot resume exactly."""
        if not (self.algorithm.resumes_exactly and distributed.is_first()):
            return False
        state = {
            "algorithm": self.algorithm.state_dict(),
            "meter": self.meter.snapshot(),
            "audit": self.audit.state_dict(),
            "step": self.step,
            "evaluated_step": self._evaluated_step,
            "next_evaluation": self._next_evaluation,
            "idle": self._idle,
            "far_enough": self._far_enough,
            "answers_with_more": self._answers_with_more,
            "last_metrics": self._last_metrics,
            "randomness": seeding.global_randomness(),
            "wall_seconds": self.seconds,
        }
        self.store.save_checkpoint(self.step, state)
        return True

    def _load(self, state: Mapping[str, Any]) -> None:
        self.algorithm.load_state_dict(state["algorithm"])
        self.meter.restore(state["meter"])
        self.audit.load_state_dict(state["audit"])
        self.step, self._evaluated_step = state["step"], state["evaluated_step"]
        self._next_evaluation, self._idle = state["next_evaluation"], state["idle"]
        self._far_enough, self._answers_with_more = state["far_enough"], state["answers_with_more"]
        self._last_metrics, self._seconds_before = state["last_metrics"], state["wall_seconds"]
        seeding.restore_global_randomness(state["randomness"])

    def _report_progress(self) -> None:
        share = 1.0 if self.over else max(self.budget.progress(self.meter), self.algorithm.progress)
        if self.budget.seconds is not None:
            share = max(share, min(1.0, self.meter.seconds / self.budget.seconds))
        self._report(Progress(share, self.step, self._last_metrics))

    def _config(self) -> dict[str, Any]:
        cell, algorithm = self.cell, self.algorithm
        notes = []
        if not algorithm.saves_language_model:
            notes.append("saves no language model, but what chooses among the reference's tokens")
        elif self._answers_with_more:
            notes.append("answers with more than the model it saves")
        outside = self.audit.found()
        if outside:
            notes.append(in_words(outside))
        return {
            "schema": SCHEMA,
            "task": cell.task,
            "task_name": cell.task_name,
            "task_settings": dict(cell.task_settings),
            "label": cell.label,
            "algorithm": cell.algorithm,
            "settings": algorithm.config.model_dump(mode="json"),
            "seed": cell.seed,
            "budget": dict(cell.budget),
            "data_source": algorithm.data_source.value,
            "evaluate": dict(cell.evaluate),
            "outside_meter": outside,
            "threads": torch.get_num_threads(),
            "notes": notes,
        }
