"""`--plugin FILE.py`: names without packaging, in this process, in the workers, and in the record."""

import json
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import bakeoff
from bakeoff import plugins, registry
from bakeoff.benchmarks.spec.validation import load_suite
from bakeoff.benchmarks.storage import run_folder
from bakeoff.cli import main
from bakeoff.envs.rewards.resolve import make_reward
from bakeoff.errors import RunFolderError, UserError

SUITE = """
name: with_plugin
tasks: [exact]
algorithms: {{{contestant}: {{batch_size: 8}}}}
seeds: {seeds}
budget: {{reward_queries: 16}}
evaluate: {{completions: 4, samples: 1}}
"""


def suite(folder: Path, contestant: str = "quiet_player", seeds: int = 1) -> Path:
    path = folder / "suite.yaml"
    path.write_text(SUITE.format(contestant=contestant, seeds=seeds))
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PlainReinforce", "plain_reinforce"),
        ("MyPPO", "my_ppo"),
        ("PPO2", "ppo2"),
        ("GRPOPlus", "grpo_plus"),
        ("A", "a"),
    ],
)
def test_snake_case(name: str, expected: str) -> None:
    assert plugins.snake_case(name) == expected


def test_classes_become_names_inside_the_block_only(player_file: Path) -> None:
    with plugins.loaded([player_file]) as (file,):
        assert registry.algorithms.load("quiet_player").__name__ == "QuietPlayer"
        assert registry.algorithms.origin("quiet_player") == f"{player_file} (QuietPlayer)"
        assert (
            registry.algorithms.load("quiet_player").Config.model_fields["bonus"].description == "Added to each metric."
        )
        assert len(file.sha256) == 64
    assert "quiet_player" not in registry.algorithms.names()


def test_what_a_file_imports_or_hides_is_not_offered(tmp_path: Path, player_file: Path) -> None:
    path = tmp_path / "several.py"
    text = player_file.read_text()
    path.write_text(
        text
        + "from bakeoff.algos.ppo import PPO\n"
        + "from abc import abstractmethod\n"
        + "class _Hidden(QuietPlayer): pass\n"
        + "class Base(QuietPlayer):\n    @abstractmethod\n    def more(self): ...\n"
        + "class Tuned(PPO):\n    '''PPO with another name.'''\n"
    )
    with plugins.loaded([path]):
        added = {entry.name for entry in registry.algorithms.added}
    assert added == {"quiet_player", "tuned"}


def test_a_mapping_names_tasks_rewards_suites_and_algorithms(tmp_path: Path, player_file: Path) -> None:
    path = tmp_path / "all.py"
    path.write_text(
        player_file.read_text()
        + """
from bakeoff.envs.tasks.exact.task import exact

def shouting(strength: float = 1.0):
    def reward(prompts, completions, **columns):
        return [strength * sum(map(str.isupper, text)) for text in completions]
    return reward

bakeoff_plugin = {
    "algorithms": {"loud": QuietPlayer},
    "tasks": {"dear": lambda: exact(kl_coef=1.0)},
    "rewards": {"shouting": shouting},
    "suites": {"mine": "suite.yaml"},
}
"""
    )
    suite(tmp_path, "loud")
    with plugins.loaded([path]):
        assert {entry.name for entry in registry.algorithms.added} == {"loud"}
        assert bakeoff.make_task("dear").kl_coef == 1.0
        assert make_reward({"name": "shouting", "strength": 2.0})[1](prompts=[""], completions=["ABc"]) == [4.0]
        assert load_suite("mine").name == "with_plugin"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def broken(:\n", "cannot be run: SyntaxError: "),
        ("x = 1\nraise ValueError('no\\nway')\n", ", line 2: cannot be run: ValueError: no way; repair it"),
        ("import sys\nsys.exit(3)\n", "cannot be run: SystemExit: 3"),
        ("x = 1\n", "offers nothing; write a subclass of bakeoff.Algorithm in it, or bakeoff_plugin = "),
        ("bakeoff_plugin = ['x']\n", "bakeoff_plugin is no mapping of groups to names and objects"),
        (
            "bakeoff_plugin = {'reward': {'x': 1}}\n",
            'unknown group "reward" in bakeoff_plugin; did you mean "rewards"?',
        ),
        ("bakeoff_plugin = {'algorithms': {'ppo': 1}}\n", 'the algorithm "ppo" exists already, from bakeoff '),
        ("bakeoff_plugin = {'suites': {'calm': 3}}\n", 'suite "calm" is 3, expected the path of a YAML file'),
        (
            "from bakeoff.algos.ppo import PPO\nclass MyPPO(PPO): pass\nclass MyPpo(PPO): pass\n",
            'MyPPO and MyPpo are both called "my_ppo"; rename one',
        ),
        (
            "from bakeoff import Algorithm\nclass Mine(Algorithm):\n    def updat(self): return {}\n",
            "offers nothing (Mine lacks update); write a subclass",
        ),
        (b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path: Path, capsys, text: str | bytes, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["list", "algorithms", "--plugin", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bakeoff: plugin {path}")
    assert message in error
    assert error.count("\n") == 1
    assert not registry.algorithms.added


def test_a_missing_file_and_one_that_is_no_python(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"), plugins.loaded([tmp_path / "none.py"]):
        pass
    with pytest.raises(UserError, match=r"not a \.py file"), plugins.loaded([tmp_path]):
        pass


def test_two_files_with_one_name_are_named_both(tmp_path: Path, player_file: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(player_file.read_text())
    with pytest.raises(UserError) as caught, plugins.loaded([player_file, other]):
        pass
    assert str(player_file) in str(caught.value)
    assert str(other) in str(caught.value)
    assert not registry.algorithms.added


def test_an_edited_file_replaces_what_it_was(player_file: Path) -> None:
    old = plugins.PluginFile.read(player_file)
    plugins.load_plugin(old)
    try:
        player_file.write_text(player_file.read_text().replace("QuietPlayer", "LoudPlayer"))
        plugins.load_plugin(plugins.PluginFile.read(player_file))
        assert {entry.name for entry in registry.algorithms.added} == {"loud_player"}
    finally:
        plugins.unload_plugin(str(player_file))


def test_tracebacks_show_the_text_that_ran(player_file: Path) -> None:
    file = plugins.PluginFile.read(player_file)
    player_file.write_text("# edited meanwhile\n")
    plugins.load_plugin(file)
    try:
        kind = registry.algorithms.load("quiet_player")
        with pytest.raises(AttributeError) as caught:
            kind.update(object())
        assert "self.envs.reset()" in "".join(traceback.format_exception(caught.value))
    finally:
        plugins.unload_plugin(str(player_file))


@pytest.mark.slow
def test_resuming_needs_the_same_plugin_text(tmp_path: Path, player_file: Path, capsys) -> None:
    out = tmp_path / "run"
    arguments = ["run", str(suite(tmp_path)), "--out", str(out), "--no-report", "--quiet", "--workers", "1"]
    assert main(arguments) == 2
    assert 'no algorithm "quiet_player"' in capsys.readouterr().err
    assert main([*arguments, "--plugin", str(player_file)]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    (recorded,) = manifest["plugins"]
    assert recorded == {
        "path": str(player_file),
        "sha256": plugins.PluginFile.read(player_file).sha256,
        "names": {"algorithms": ["quiet_player"]},
    }
    assert json.loads((out / "cells/exact/quiet_player/seed-0/status.json").read_text())["status"] == "done"

    moved = tmp_path / "elsewhere.py"
    moved.write_text(player_file.read_text())
    assert main([*arguments, "--plugin", str(moved)]) == 0

    player_file.write_text(player_file.read_text() + "# another text\n")
    assert main([*arguments, "--plugin", str(player_file)]) == 2
    assert "which has changed since; give the file as it was, or choose another --out" in capsys.readouterr().err


def test_a_run_goes_on_with_the_plugins_that_it_was_begun_with(tmp_path: Path, player_file: Path) -> None:
    checked, file = load_suite(suite(tmp_path, "reference")), plugins.PluginFile.read(player_file)
    for name in ("with", "without"):
        (tmp_path / name / checked.cells()[0].path).mkdir(parents=True)
    run_folder.open_folder(tmp_path / "without", checked, 1, "x")
    with pytest.raises(RunFolderError, match=r"was begun without --plugin .*player\.py; leave it out"):
        run_folder.open_folder(tmp_path / "without", checked, 1, "x", [file])
    run_folder.open_folder(tmp_path / "with", checked, 1, "x", [file])
    with pytest.raises(RunFolderError, match=r"was begun with --plugin .*player\.py .* which is missing now"):
        run_folder.open_folder(tmp_path / "with", checked, 1, "x")


def test_listing_a_plugin_imports_no_model_code(tmp_path: Path) -> None:
    path = tmp_path / "light.py"
    path.write_text("bakeoff_plugin = {'rewards': {'light': len}, 'algorithms': {}}\n")
    code = (
        "import sys; from bakeoff.cli import main; "
        f"main(['list', 'rewards', '--plugin', {str(path)!r}]); assert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "light" in ran.stdout
