"""The registry: a fault in one entry affects only those who use its name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bakeoff import registry
from bakeoff.benchmarks.spec.validation import load_suite
from bakeoff.benchmarks.storage import run_folder
from bakeoff.cli import main
from bakeoff.errors import NotFoundError, UserError

BROKEN = "raise RuntimeError('half\\nbuilt')"


def test_a_broken_package_is_named_when_used(install, capsys) -> None:
    install("halfbuilt", "[bakeoff.algorithms]\nhalf = halfbuilt_module:Half\n", halfbuilt_module=BROKEN)
    assert main(["list", "algorithms"]) == 0
    assert "halfbuilt 1.0 (halfbuilt_module:Half)" in capsys.readouterr().out
    assert "halfbuilt_module" not in sys.modules
    with pytest.raises(UserError) as caught:
        registry.algorithms.load("half")
    assert str(caught.value) == (
        'algorithm "half" from halfbuilt 1.0 (halfbuilt_module:Half) cannot be loaded: RuntimeError: half built; '
        "repair or uninstall that package"
    )
    load_suite("quick")  # uses another name


@pytest.mark.parametrize("value", ["no_such_module:X", "json:no_such_object", "not a place", "json:"])
def test_every_way_to_lead_nowhere_is_one_line(install, value: str) -> None:
    install("nowhere", f"[bakeoff.rewards]\nlost = {value}\n")
    with pytest.raises(UserError, match=r'reward "lost" from nowhere 1\.0 .* cannot be loaded: .*repair') as caught:
        registry.rewards.load("lost")
    assert "\n" not in str(caught.value)


def test_a_package_that_exits_at_import_takes_nothing_with_it(install) -> None:
    install("exits", "[bakeoff.tasks]\ngone = exits_module:x\n", exits_module="import sys; sys.exit('bye')")
    with pytest.raises(UserError, match=r'task "gone" from exits 1\.0 .* SystemExit: bye'):
        registry.tasks.load("gone")


def test_a_name_claimed_twice_is_an_error_when_used(install, capsys) -> None:
    for package in ("first", "second"):
        install(package, f"[bakeoff.algorithms]\nmine = json:{'dumps' if package == 'first' else 'loads'}\n")
    load_suite("quick")
    assert main(["list", "algorithms"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mine"))
    assert "cannot be used: the algorithm" in line
    assert main(["list", "algorithms", "--json"]) == 0
    row = next(row for row in json.loads(capsys.readouterr().out) if row["name"] == "mine")
    assert "registered twice" in row["problem"]
    with pytest.raises(UserError) as caught:
        registry.algorithms.load("mine")
    for part in ("second 1.0 (json:loads)", "first 1.0 (json:dumps)", "uninstall one of them"):
        assert part in str(caught.value)


def test_a_package_cannot_take_a_built_in_name_in_silence(install) -> None:
    install("usurper", "[bakeoff.algorithms]\nppo = json:dumps\n")
    with pytest.raises(UserError, match=r"usurper 1\.0 \(json:dumps\) and bakeoff .*bakeoff\.algos\.ppo:PPO"):
        registry.algorithms.load("ppo")
    assert registry.algorithms.load("grpo") is not None


def test_metadata_that_cannot_be_read_is_that_packages_affair(install, capsys) -> None:
    install("torn", "[bakeoff.algorithms]\nthis line has no equals sign\n")
    install("fine", "[bakeoff.algorithms]\nfine = json:dumps\n")
    assert registry.algorithms.load("fine") is json.dumps
    assert registry.algorithms.load("ppo") is not None
    (problem,) = registry.problems()
    assert "entry points of torn 1.0 cannot be read" in problem
    assert "\n" not in problem
    assert main(["list", "tasks"]) == 0
    assert "torn 1.0" in capsys.readouterr().err


def test_where_others_break_at_torn_metadata_it_is_named(install, tmp_path: Path) -> None:
    folder = install("torn", "[bakeoff.algorithms]\nthis line has no equals sign\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    command = [sys.executable, "-m", "bakeoff", "run", "exact", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "the entry points of torn 1.0 cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_registered_and_is_not_what_it_should_be(install, tmp_path: Path, capsys) -> None:
    install("numbers", "[bakeoff.suites]\nnumber = numbers_module:x\ngone = numbers_module:gone\n"
            "[bakeoff.tasks]\nnumber = numbers_module:x\n", numbers_module="x = 3\ngone = '/nowhere/s.yaml'")  # fmt: skip
    for name, told in (
        ("number", "is 3, expected the path of a YAML file"),
        ("gone", "there is no file /nowhere/s.yaml"),
    ):
        with pytest.raises(UserError, match=rf'suite "{name}" from numbers 1\.0 .*{told}; repair that package'):
            load_suite(name)
    suite = {"name": "s", "tasks": ["number"], "algorithms": ["reference"], "seeds": 1, "budget": {"reward_queries": 8}}
    with pytest.raises(UserError, match="3 is no factory"):
        load_suite(suite)
    install("moody", "[bakeoff.algorithms]\nmoody = moody_module:Moody\n", moody_module=(
        "from bakeoff.algos.best_of_n import BestOfN\nclass Moody(BestOfN):\n"
        "    @classmethod\n    def unavailable(cls): raise RuntimeError('not today')\n"))  # fmt: skip
    with pytest.raises(UserError, match=r"its unavailable\(\) raised RuntimeError: not today"):
        load_suite({**suite, "tasks": ["exact"], "algorithms": ["moody"]})


def test_metadata_without_a_name_breaks_nothing(install) -> None:
    install("nameless", "[bakeoff.algorithms]\nodd = json:dumps\n", metadata="Metadata-Version: 2.1\n")
    assert "ppo" in registry.algorithms.names()
    assert "bakeoff" in run_folder.versions()


def test_every_plugins_version_is_recorded(install) -> None:
    install("noted", "[bakeoff.rewards]\nnoted = json:dumps\n")
    assert run_folder.versions()["noted"] == "1.0"


def test_first_copy_of_a_package_on_the_path_counts(install, tmp_path: Path) -> None:
    text = "Metadata-Version: 2.1\nName: same\nVersion: {}\n"
    install("older", "[bakeoff.rewards]\nsame = json:loads\n", metadata=text.format(1))
    install("newer", "[bakeoff.rewards]\nsame = json:dumps\n", metadata=text.format(2))
    assert registry.rewards.origin("same") == "same 2 (json:dumps)"
    assert registry.rewards.load("same") is json.dumps


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(NotFoundError, match='no algorithm "ppoo"; did you mean "ppo"'):
        registry.algorithms.load("ppoo")
