"""`bakeoff tune`: the same number of trials for every algorithm, on seeds that the suite never uses.

Trials go in rounds: in each, every algorithm tries one setting, and the round is an ordinary run in ``OUT/trials/``, so it
fails, resumes and is reported like any other. The first round tries the suite's own settings. Optuna's sampler is seeded
and gets scores in order, so an interrupted search proposes the same settings again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bakeoff import plain_files, registry
from bakeoff.benchmarks.progress import Display
from bakeoff.benchmarks.run import make_executor, run_suite, threads_of
from bakeoff.benchmarks.spec.parts import TuneSpec
from bakeoff.benchmarks.spec.schema import Suite
from bakeoff.benchmarks.spec.validation import load_suite
from bakeoff.benchmarks.storage import atomic_files, run_folder
from bakeoff.benchmarks.storage.cell_store import Status
from bakeoff.benchmarks.tuning import search_space
from bakeoff.benchmarks.tuning.search_space import Space
from bakeoff.errors import ConfigError, UserError
from bakeoff.extras import optional
from bakeoff.plugins import PluginFile
from bakeoff.seeding import derive_seed

if TYPE_CHECKING:
    from bakeoff.algos.core.algorithm import Algorithm

FIRST_SEED = 1_000_000
"""Seeds of trials are counted from here, leaving out those of the suite."""


@dataclass
class Search:
    """One algorithm's trials."""

    label: str
    """Its label in the suite."""
    space: Space
    """What is searched."""
    study: Any
    """Optuna's study, without the first trial, whose settings may lie outside the space."""
    settings: list[dict[str, Any]] = field(default_factory=list)
    """What each trial changed; nothing in the first."""
    scores: list[float | None] = field(default_factory=list)
    """What each trial scored; None where it failed."""

    @property
    def best(self) -> int:
        """The best trial; the first of equal ones, so a change has to earn its place."""
        found = [(score, -number) for number, score in enumerate(self.scores) if score is not None]
        return -max(found)[1] if found else 0


def tune(
    suite: Suite,
    out: Path,
    *,
    trials: int | None = None,
    seeds: int | None = None,
    workers: int | None = None,
    executor: str = "local",
    display: Display | None = None,
    plugins: Sequence[PluginFile] = (),
) -> Path:
    """Search settings for every algorithm of a suite; returns the path of the tuned suite, ``OUT/tuned.yaml``.

    Args:
        suite: a checked suite; its ``tune`` says what to search.
        out: folder for the trials and the tuned suite; resumed where it exists.
        trials: settings tried for each algorithm, instead of the suite's number.
        seeds: seeds of each trial, instead of the suite's number.
        workers: cells at once.
        executor: ``local`` or ``ray``.
        display: shows progress.
        plugins: files whose names the suite may use; they are registered already.

    Raises:
        UserError: Optuna is not installed; a suite that cannot be tuned; nothing to search.
        Interrupted: Ctrl-C; the same call resumes.
    """
    optuna = optional("optuna", "tune", "bakeoff tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if suite.sweep:
        raise UserError("a suite with a sweep cannot be tuned; move the swept settings to tune.space")
    spec = suite.tune or TuneSpec()
    count = trials or spec.trials
    chosen = trial_seeds(suite.seeds, seeds or spec.seeds)
    display = display or Display(quiet=True)
    with suppress(FileNotFoundError):
        foreign = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith("."))
        if foreign and not (out / "trials").is_dir():
            raise UserError(f"{out}: not empty ({foreign[0]}) and not a search of `bakeoff tune`; choose another --out")
        plain_files.refuse_links(out)
    labels = [search.label for search in _searches(optuna, suite, spec, None)]
    # The number of threads can change the last digits of a sum, so a search keeps the number it was begun with.
    begun = atomic_files.read_json(out / "trials" / "0000" / "manifest.json")
    machine = begun.get("machine") if isinstance(begun, dict) else None
    threads = machine.get("threads_per_cell") if isinstance(machine, dict) else None
    if not isinstance(threads, int):
        threads = threads_of(executor, suite, workers)
    running = make_executor(executor, suite, threads, workers)
    run = partial(
        run_suite, workers=workers, executor=running, display=display, command="bakeoff tune", plugins=plugins
    )
    try:
        searches: list[Search] = []
        for number in range(count):
            home = out / "trials" / f"{number:04d}"
            if number == 0:
                proposed: dict[str, dict[str, Any]] = {label: {} for label in labels}
            else:
                proposed = {search.label: _propose(optuna, search) for search in searches}
            display.note(f"trial {number + 1} of {count}")
            scores = _round(suite, spec, proposed, chosen, home, run)
            if number == 0:
                searches = _searches(optuna, suite, spec, home)
            for search in searches:
                _record(optuna, search, number, proposed[search.label], scores[search.label])
    finally:
        running.close()
    with run_folder.disk_errors(out):
        return _write(suite, spec, out, searches, chosen, count, str(optuna.__version__))


def trial_seeds(taken: Sequence[int], count: int) -> list[int]:
    """Seeds for trials: none of those that are taken."""
    found: list[int] = []
    seed = FIRST_SEED
    while len(found) < count:
        if seed not in taken:
            found.append(seed)
        seed += 1
    return found


def _searches(optuna: Any, suite: Suite, spec: TuneSpec, first: Path | None) -> list[Search]:
    """The space of each algorithm; ranges of learning rates are known after the first round, which has built the tasks."""
    tasks = () if first is None else [atomic_files.read_json(first / "tasks" / f"{task}.json") for task in suite.tasks]
    widths = [width for task in tasks if isinstance(width := (task or {}).get("width"), int)]
    searches = []
    for label, entry in suite.algorithms.items():
        kind = registry.algorithms.load(entry.algorithm or label)
        if label in spec.space:
            space: Space = {
                key: list(value) if isinstance(value, list) else value.model_dump()
                for key, value in spec.space[label].items()
            }
        else:
            rate = _usual_rate(kind, entry.__pydantic_extra__, widths)
            space = search_space.default_space(kind, entry.__pydantic_extra__, rate)
        if space:
            sampler = optuna.samplers.TPESampler(seed=derive_seed(0, "tune", label) % 2**32)
            searches.append(Search(label, space, optuna.create_study(direction="maximize", sampler=sampler)))
    if not searches:
        raise UserError("no algorithm of this suite has anything to search; declare it in tune.space")
    return searches


def _usual_rate(kind: type[Algorithm], own: Mapping[str, Any], widths: Sequence[int]) -> float:
    """The learning rate that a label has by itself, the geometric mean over tasks; arbitrary before their widths are known."""
    from bakeoff.algos.core.build import parse_config
    from bakeoff.algos.core.optimizer import starting_rate

    if "learning_rate" in own:  # it is not searched
        return 1.0
    config = parse_config(kind, own)
    logs = [math.log(starting_rate(config, width)) for width in widths]
    return math.exp(sum(logs) / len(logs)) if logs else 1e-4


def _propose(optuna: Any, search: Search) -> dict[str, Any]:
    trial = search.study.ask({name: _distribution(optuna, value) for name, value in search.space.items()})
    return dict(trial.params)


def _distribution(optuna: Any, value: Mapping[str, Any] | Sequence[Any]) -> Any:
    kinds = optuna.distributions
    if not isinstance(value, Mapping):
        return kinds.CategoricalDistribution(tuple(value))
    low, high, log = value["low"], value["high"], value["log"]
    if isinstance(low, int) and isinstance(high, int):
        return kinds.IntDistribution(low, high, log=log)
    return kinds.FloatDistribution(float(low), float(high), log=log)


def _record(optuna: Any, search: Search, number: int, settings: dict[str, Any], score: float | None) -> None:
    search.settings.append(settings)
    search.scores.append(score)
    if number > 0:  # the study's own numbers lag by the first trial
        states = optuna.trial.TrialState
        search.study.tell(number - 1, score, state=states.COMPLETE if score is not None else states.FAIL)


def _round(
    suite: Suite,
    spec: TuneSpec,
    proposed: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    home: Path,
    run: Callable[[Suite, Path], Any],
) -> dict[str, float | None]:
    """Run one trial of every algorithm and return its score; None for a setting that cannot be used, or a failed cell."""
    record = home / "scores.json"
    known = atomic_files.read_json(record)
    wanted = {label: dict(settings) for label, settings in proposed.items()}
    document = trial_suite(suite, spec, {label: s for label, s in proposed.items() if _usable(suite, label, s)}, seeds)
    if isinstance(known, dict):
        if (known.get("settings"), known.get("suite")) != (wanted, document):
            raise UserError(
                f"{home}: holds a trial of another suite, or with other seeds or another budget; choose another --out, or tune "
                "what it was begun with"
            )
        return dict(known["scores"])
    scores: dict[str, float | None] = dict.fromkeys(proposed)
    if document["algorithms"]:
        trial = load_suite(document)
        run(trial, home)
        for label in document["algorithms"]:
            scores[label] = _score([home / cell.path for cell in trial.cells() if cell.label == label])
    with run_folder.disk_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        atomic_files.write_json(record, {"settings": wanted, "suite": document, "scores": scores})
    return scores


def trial_suite(
    suite: Suite, spec: TuneSpec, proposed: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> dict[str, Any]:
    """The suite of one round: evaluated at its start and its end only, with the proposed settings."""
    document = suite.document()
    for key in ("tune", "tuned", "trackers", "description"):
        document.pop(key, None)
    document["algorithms"] = {
        label: {**document["algorithms"][label], **settings} for label, settings in proposed.items()
    }
    document["seeds"] = list(seeds)
    if spec.budget is not None:
        document["budget"] = spec.budget.limits()
        for task in document["tasks"].values():
            task.pop("budget", None)
    meter, limit = next(iter(document["budget"].items()))
    document["evaluate"] = {"every": {meter: limit}, "completions": suite.evaluate.completions, "samples": 0}
    return document


def _usable(suite: Suite, label: str, settings: Mapping[str, Any]) -> bool:
    from bakeoff.algos.core.build import parse_config

    entry = suite.algorithms[label]
    kind = registry.algorithms.load(entry.algorithm or label)
    try:
        parse_config(kind, {**entry.__pydantic_extra__, **settings})
    except ConfigError:
        return False
    return True


def _score(cells: Sequence[Path]) -> float | None:
    """The mean over cells of what each has gained: the normalized score where it is known, else the objective's rise."""
    gains: list[float] = []
    for folder in cells:
        if Status.read(folder).status != "done":
            return None
        judged = [
            row["metrics"] for row in atomic_files.read_rows(folder / "metrics.jsonl") if row.get("phase") == "eval"
        ]
        name = "normalized_score" if "normalized_score" in judged[-1] else "objective"
        first, last = judged[0].get(name), judged[-1].get(name)
        if first is None or last is None:
            return None
        gains.append(float(last if name == "normalized_score" else last - first))
    return sum(gains) / len(gains)


def _write(
    suite: Suite,
    spec: TuneSpec,
    out: Path,
    searches: Sequence[Search],
    seeds: Sequence[int],
    trials: int,
    version: str,
) -> Path:
    document = suite.document()
    document.pop("tune", None)
    contestants = {}
    rows = []
    for search in searches:
        best = search.best
        document["algorithms"][search.label] = {**document["algorithms"][search.label], **search.settings[best]}
        contestants[search.label] = {
            "settings": search.settings[best],
            "score": search.scores[best],
            "score_before": search.scores[0],
            "failed": sum(score is None for score in search.scores),
            "space": search.space,
        }
        for number, (settings, score) in enumerate(zip(search.settings, search.scores, strict=True)):
            rows.append({"label": search.label, "trial": number, "settings": settings, "score": score})
    plain_files.replace(out / "trials.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    budget = (spec.budget or suite.budget).limits()
    document["tuned"] = {
        "trials": trials,
        "seeds": list(seeds),
        "budget": budget,
        "optuna": version,
        "contestants": contestants,
    }
    path = out / "tuned.yaml"
    head = f"# Found by `bakeoff tune`: {trials} trials for each algorithm on {len(seeds)} seed(s) that this suite does not use.\n"
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    plain_files.replace(path, (head + text).encode("utf-8"))
    load_suite(path)
    return path
