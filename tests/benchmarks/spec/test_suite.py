import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bakeoff import registry
from bakeoff.benchmarks.spec import reader
from bakeoff.benchmarks.spec.reader import SuiteError, assigned, from_mapping, override
from bakeoff.benchmarks.spec.schema import Suite, select
from bakeoff.benchmarks.spec.validation import checked, load_suite
from bakeoff.errors import BakeoffError, NotFoundError

GOOD = """\
name: good
tasks:
  exact: {budget: {reward_queries: 640}}
  milder: {task: exact, kl_coef: 0.5}
algorithms:
  ppo: {}
  tight: {algorithm: ppo, kl_coef: 0.3}
  best_of_n: {n: 4}
sweep: {kl_coef: [0.03, 1e-1]}
seeds: 2
budget: {reward_queries: 2e4}
evaluate: {every: {reward_queries: 2000}, completions: 64, samples: 3}
retries: 1
timeout: 60
ray: {cpus: 2, ship: true}
tune: {trials: 4, space: {tight: {clip: {low: 0.1, high: 0.3}, epochs: [1, 2]}}}
"""

BAD = """\
name: bad name
tasks:
  exact: {kl_coeff: 0.5}
  exakt: {}
  twice: {task: exact, budget: {reward_query: 5}}
algorithms:
  ppo:
    {epochs: none, clipp: 0.1}
  ppoo: {}
  ppo: {}
sweep:
  clop: [0.1, 0.2]
  kl_coef: []
seeds: many
budget: {reward_queries: -5}
evaluate: {every: 3, completions: 1.5}
retrys: 2
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(SuiteError) as caught:
        load(text)
    return caught.value.problems


def load(text: str) -> Suite:
    return checked(reader.from_text(text, "s.yaml"))


def test_cells_are_tasks_by_seeds_by_swept_labels() -> None:
    cells = load(GOOD).cells()
    # 2 tasks x 2 seeds x (ppo at 2 points + tight, which fixes the setting itself, + best_of_n at 2 points)
    assert len(cells) == 2 * 2 * 5
    assert [cell.path for cell in cells[:5]] == [
        "cells/exact/ppo[kl_coef=0.03]/seed-0",
        "cells/exact/ppo[kl_coef=0.1]/seed-0",
        "cells/exact/tight/seed-0",
        "cells/exact/best_of_n[kl_coef=0.03]/seed-0",
        "cells/exact/best_of_n[kl_coef=0.1]/seed-0",
    ]
    tight, milder = cells[2], cells[10]
    assert (tight.algorithm, tight.settings, tight.budget) == ("ppo", {"kl_coef": 0.3}, {"reward_queries": 640})
    assert (milder.task, milder.task_name, milder.task_settings) == ("milder", "exact", {"kl_coef": 0.5})
    assert milder.budget == {"reward_queries": 20000}
    assert milder.evaluate == {"every": {"reward_queries": 2000}, "completions": 64, "samples": 3}
    assert [cell.seed for cell in cells if cell.task == "exact"] == [0] * 5 + [1] * 5


def test_every_is_a_tenth_of_the_budget_by_default() -> None:
    suite = load("name: a\ntasks: [exact]\nalgorithms: [ppo]\nseeds: [3]\nbudget: {seconds: 5, trained_tokens: 1234}\n")
    (cell,) = suite.cells()
    assert cell.evaluate["every"] == {"trained_tokens": 123}
    assert cell.seed == 3


def test_document_reads_back_as_the_same_suite() -> None:
    suite = load(GOOD)
    assert load_suite(suite) == suite
    assert load_suite(suite.document()) == suite


def test_every_problem_is_reported_at_once_with_its_line() -> None:
    assert problems_of(BAD) == [
        's.yaml:1: name: "bad name" cannot be a name: use letters, digits and _ . + - (it names a folder), at most 64, '
        "starting with a letter or a digit",
        's.yaml:3: task "exact": unknown setting "kl_coeff"; did you mean "kl_coef"? (known: kl_coef, reward_seed)',
        's.yaml:4: no task "exakt"; did you mean "exact"?; installed: ' + ", ".join(registry.tasks.names()),
        's.yaml:5: unknown key "reward_query" in tasks.twice.budget; did you mean "reward_queries"?; keys are '
        "generated_tokens, reward_queries, trained_tokens, seconds",
        's.yaml:8: algorithm "ppo": setting "epochs": input should be a valid integer, unable to parse string as an '
        "integer (got 'none')",
        's.yaml:8: algorithm "ppo": unknown setting "clipp"; did you mean "clip"?',
        's.yaml:9: no algorithm "ppoo"; did you mean "ppo"?; installed: ' + ", ".join(registry.algorithms.names()),
        's.yaml:10: key "ppo" is given twice (first on line 7); remove one',
        's.yaml:12: algorithm "ppo": unknown setting "clop"; did you mean "clip"?',
        "s.yaml:13: sweep.kl_coef: should not be empty, got []",
        "s.yaml:14: seeds: expected a number of seeds or a list of them, got a text",
        "s.yaml:15: budget.reward_queries: should be greater than 0, got -5",
        "s.yaml:16: evaluate.every: should be a mapping of keys to values, got 3",
        "s.yaml:16: evaluate.completions: should be a whole number, got 1.5",
        's.yaml:17: unknown key "retrys"; did you mean "retries"?; keys are ' + ", ".join(Suite.model_fields),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "s.yaml: is empty; a suite is a mapping"),
        ("- a\n- b\n", "s.yaml:1: holds a list; a suite is a mapping"),
        ("just words", "s.yaml:1: holds a text; a suite is a mapping"),
        ("a: [1, 2", "s.yaml:1: not valid YAML"),
        ("a: b: c", "s.yaml:1: not valid YAML"),
        ("a: \x00", "s.yaml:1: not valid YAML: a character that is not allowed"),
        ("--- 1\n--- 2\n", "s.yaml:2: not valid YAML"),
        ("? [a]\n: 1\n", "s.yaml:1: a key must be a word"),
        ("name: !!python/object:os.system x\n", 's.yaml:1: tag "tag:yaml.org,2002:python/object:os.system" is not'),
        ("name: *nobody\n", "s.yaml:1: not valid YAML"),
        ("seeds: .nan\n", "s.yaml:1: .nan is not a finite number"),
        ("seeds: " + "9" * 5000, "s.yaml:1: "),
        ("[" * 5000, "s.yaml: values are nested too deeply"),
        ("name: &a [*a]\n", "s.yaml: values are nested too deeply"),
        ('name: "\\UFFFFFFFF"\n', "s.yaml"),
    ],
)  # fmt: skip
def test_what_is_no_suite_is_one_line(text: str, problem: str) -> None:
    problems = problems_of(text)
    assert problems[0].startswith(problem)
    assert all("\n" not in line for line in problems)


def test_values_of_tasks_are_checked_with_their_line() -> None:
    text = """\
name: mine
tasks:
  exact: {kl_coef: abc}
  mine:
    task: custom
    model: m
    prompts: [1]
    reward: vadr
    gold: {name: lenght}
    max_new_tokens: 2.5
    chat: "yes"
    device: null
algorithms: [reference]
seeds: 1
budget: {reward_queries: 8}
"""
    installed = ", ".join(registry.rewards.names())
    assert problems_of(text) == [
        's.yaml:3: task "exact": setting "kl_coef": expected a number, got \'abc\'',
        's.yaml:7: task "mine": setting "prompts": expected text, got [1]',
        f's.yaml:8: task "mine": setting "reward": no reward "vadr"; did you mean "vader"?; installed: {installed}',
        f's.yaml:9: task "mine": setting "gold": no reward "lenght"; did you mean "length"?; installed: {installed}',
        's.yaml:10: task "mine": setting "max_new_tokens": expected a whole number, got 2.5',
        's.yaml:11: task "mine": setting "chat": expected true or false, got \'yes\'',
        's.yaml:12: task "mine": setting "device": expected text, got None',
    ]


def test_what_could_not_be_read_is_complained_of_once() -> None:
    problems = problems_of("name: a\ntasks: exact\nalgorithms: [reference]\nseeds: 1\nbudget: {reward_queries: 8}\n")
    assert problems == ["s.yaml:2: tasks: expected names or a mapping of labels to settings, got a text"]


def test_aliases_may_not_expand_beyond_reason() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    started = time.perf_counter()
    assert problems_of(bomb) == ["s.yaml: more than 20000 values; a suite is a short YAML file"]
    assert time.perf_counter() - started < 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"name: x\n\xff\xfe\x00")
    (tmp_path / "huge.yaml").write_text("#" * 300_000)
    for name, problem in [
        ("binary.yaml", ":2: not UTF-8 text"),
        ("huge.yaml", ": larger than 256 KiB"),
        ("none.yaml", ": cannot be read: No such file"),
        (".", ": cannot be read: Is a directory"),
    ]:
        path = tmp_path / name
        with pytest.raises(SuiteError) as caught:
            load_suite(path)
        assert caught.value.problems[0].startswith(f"{path}{problem}")
    with pytest.raises(NotFoundError, match='no suite "quik"; did you mean "quick"'):
        load_suite("quik")


def test_overrides() -> None:
    overrides = ["budget.reward_queries=500", "algorithms.ppo.clip=0.1", "evaluate.completions=32"]
    overrides.append("tasks.new.task=exact")
    suite = load_suite(load(GOOD), overrides, seeds=3)
    assert suite.budget.limits() == {"reward_queries": 500}
    assert suite.seeds == [0, 1, 2]
    assert suite.evaluate.completions == 32
    assert next(cell for cell in suite.cells() if cell.label.startswith("ppo")).settings["clip"] == 0.1
    assert {cell.task for cell in suite.cells()} == {"exact", "milder", "new"}
    with pytest.raises(SuiteError) as caught:
        load_suite(load(GOOD), ["budget.reward_querys=5", "nonsense", "seeds.x=1", "budget=["])
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "--set nonsense", "--set seeds.x=1", "--set budget=[", "--set budget.reward_querys=5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value", ["🎉 ü", "\x85 \x9f", r"\ud83c\udf89", "a: b", None, True, 1e-3, [1, 2], {"a": "#"}, ""]
)
def test_an_assignment_reads_back_as_its_value(value: Any) -> None:
    data = from_mapping({"key": 0})
    override(data, [assigned("key", value)])
    assert data.values == {"key": value}
    assert not data.problems
    assert assigned("key", Path("a") / "b") == 'key="a/b"'
    assert assigned("key", np.int64(5)) == "key=5"
    with pytest.raises(BakeoffError, match=r"key: .* is a set, which no suite can hold"):
        assigned("key", {1})


def test_lists_take_overrides_as_well() -> None:
    values = {"name": "a", "tasks": ["exact"], "algorithms": ["ppo"], "seeds": 1, "budget": {"reward_queries": 5}}
    suite = load_suite(values, ["algorithms.ppo.clip=0.5", "tasks.exact.kl_coef=0.1"])
    assert suite.cells()[0].settings == {"clip": 0.5}
    assert suite.cells()[0].task_settings == {"kl_coef": 0.1}


def test_selection() -> None:
    cells = load(GOOD).cells()
    assert {cell.label for cell in select(cells, ["ppo"])} == {"ppo[kl_coef=0.03]", "ppo[kl_coef=0.1]"}
    assert {cell.label for cell in select(cells, ["tight", "ppo[kl_coef=0.1]"])} == {"tight", "ppo[kl_coef=0.1]"}
    with pytest.raises(NotFoundError, match='did you mean "tight"'):
        select(cells, ["tigth"])


@pytest.mark.parametrize("name", registry.suites.names())
def test_builtin_suites_are_valid(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert len(suite.seeds) >= 2


PIECES = [
    "", " ", "\t", "\n", ":", "- ", "[", "]", "{", "}", "&a ", "*a", "!!int ", "!x ", '"', "'", "|", ">", "%", "@", "`",
    "#", "?", "~", "null", "true", "1", "-1", "0", "1e400", ".inf", "9" * 400, "\x07", "\u2028", "\ud7ff", "ü", "..",
    "\U0001f600", "/", "../x", "ppo", "exact", "reward_queries", "name: x", "<<: *a", "---", "...", "[[[[", "a" * 300,
    "seeds: 100000000",
]  # fmt: skip


def test_no_mutation_gives_a_traceback() -> None:
    rng = random.Random(0)
    survived = 0
    for _ in range(500):
        lines = GOOD.splitlines(keepends=True)
        for _ in range(rng.randint(1, 4)):
            row = rng.randrange(len(lines))
            line = lines[row]
            kind = rng.randrange(5)
            if kind == 0:
                del lines[row]
                lines = lines or [""]
            elif kind == 1:
                lines.insert(row, rng.choice(lines))
            elif kind == 2:
                at = rng.randint(0, len(line))
                lines[row] = line[:at] + rng.choice(PIECES) + line[at:]
            elif kind == 3 and ":" in line:
                lines[row] = line.partition(":")[0] + ": " + rng.choice(PIECES) + "\n"
            else:
                at = rng.randint(0, len(line))
                lines[row] = line[:at] + line[at + rng.randint(1, 5) :]
        started = time.perf_counter()
        try:
            cells = load("".join(lines)).cells()
        except BakeoffError:
            cells = []
        assert time.perf_counter() - started < 5
        assert all(".." not in cell.path.split("/") and cell.path.count("/") == 3 for cell in cells)
        survived += bool(cells)
    assert 20 < survived < 480


DOCS = Path(__file__).parents[3] / "docs"


def test_the_documentation_is_true() -> None:
    text = (DOCS / "suites.md").read_text(encoding="utf-8")
    block = text.partition("```yaml\n")[2].partition("```")[0]
    suite = load(block)
    assert len(suite.cells()) == 3 * 3 * 8  # as the page says
    assert {cell.budget["reward_queries"] for cell in suite.cells()} == {12800, 3840}
    for key in Suite.model_fields:
        assert f"| `{key}` |" in text


def test_a_key_that_is_no_text_is_one_line() -> None:
    with pytest.raises(SuiteError):
        load_suite(load(GOOD), ["a\udcff=1"])


def test_data_that_are_not_there_show_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\ntasks: [exact]\nalgorithms:\n  sft: {data: nowhere.jsonl}\nseeds: 1\nbudget: {reward_queries: 8}\n"
    )
    with pytest.raises(
        SuiteError, match=r's\.yaml:4: algorithm "sft": setting "data": there is no file nowhere\.jsonl'
    ):
        load_suite(path)
