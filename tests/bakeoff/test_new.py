"""`bakeoff new`: what it writes works as it is, and is what stands in examples/."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from bakeoff.cli import main
from bakeoff.errors import UserError
from bakeoff.scaffold import KINDS, new_package

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "plugin_package"
PAGE = ROOT / "docs" / "plugins.md"


def test_new_algorithm_is_short_and_names_the_next_step(tmp_path: Path, capsys) -> None:
    assert main(["new", "algorithm", "my_idea", "--out", str(tmp_path / "x")]) == 0
    module = tmp_path / "x" / "bakeoff_my_idea.py"
    assert len(module.read_text().splitlines()) < 60
    assert "class MyIdea(Algorithm)" in module.read_text()
    assert f"next: bakeoff check my_idea --plugin {module}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_clean_code_that_bakeoff_finds(kind: str, tmp_path: Path, capsys) -> None:
    written = new_package(kind, "my_thing", tmp_path / "x")
    assert main(["list", f"{kind}s", "--plugin", str(written[0])]) == 0
    assert re.search(rf"^my_thing +{re.escape(str(written[0]))}", capsys.readouterr().out, re.MULTILINE)
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check"], ["format", "--check", "--diff"]):
        ran = subprocess.run(
            [*ruff, *command, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)], capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_new_reward_and_a_new_task_pass_their_own_tests(tmp_path: Path) -> None:
    for kind in ("reward", "task"):
        folder = new_package(kind, "my_thing", tmp_path / kind)[0].parent
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "tests"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("algorithm", "My-Idea", r'"My-Idea" cannot be the name of an algorithm: use small letters'),
        ("task", "mine_", r'"mine_" cannot be the name of a task: use small letters'),
        ("reward", "class", r'"class" cannot be the name of a reward'),
        ("algorithm", "ppo", r'the algorithm "ppo" exists already, from bakeoff '),
        ("algorithm", "optimizer", r'"optimizer" is a word that the code of an algorithm uses already'),
        ("reward", "weight", r'"weight" is a word that the code of a reward uses already'),
        ("algorithm", "idea_2", r'"idea_2" would be a class Idea2, whose name reads "idea2"; take that name'),
    ],
)
def test_a_bad_name_is_one_line(kind: str, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        new_package(kind, name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(UserError, match="not empty; choose another --out"):
        new_package("algorithm", "my_idea", tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        new_package("algorithm", "my_idea", tmp_path / "kept.txt" / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_the_example_is_what_the_command_writes(tmp_path: Path) -> None:
    for path in new_package("algorithm", "batch_baseline", tmp_path / "x"):
        here = EXAMPLE / path.relative_to(tmp_path / "x")
        assert here.read_text() == path.read_text(), f"write {here} anew with `bakeoff new algorithm batch_baseline`"


def environment(folder: Path) -> dict[str, str]:
    """A virtual environment that sees what this one sees, with `bakeoff`, `pip` and `pytest` on its path; no network."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # Not plain paths: an editable install of bakeoff is itself a .pth file in one of them.
    seen = [f"import site; site.addsitedir({path!r})" for path in sys.path if path.endswith("-packages")]
    (site / "zz_base.pth").write_text("\n".join(seen))
    for module in ("bakeoff", "pip", "pytest"):
        script = folder / "bin" / module
        script.write_text(f'#!/bin/sh\nexec "{python}" -m {module} "$@"\n')
        script.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON"))}
    return {
        **kept,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say yes
        "PIP_NO_INDEX": "1",
        "PIP_QUIET": "1",
    }


def run(command: list[str] | str, cwd: Path, env: dict[str, str]) -> str:
    ran = subprocess.run(
        command, cwd=cwd, env=env, shell=isinstance(command, str), capture_output=True, text=True, timeout=1800
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.mark.slow
def test_the_example_runs_when_installed_elsewhere(tmp_path: Path) -> None:
    """Built from a copy, installed into an environment of its own, and run in a suite there."""
    env = environment(tmp_path / "env")
    copy = tmp_path / "copy"
    for path in EXAMPLE.rglob("*"):
        if path.is_file() and "egg-info" not in str(path) and "__pycache__" not in path.parts:
            (copy / path.relative_to(EXAMPLE)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(EXAMPLE)).write_bytes(path.read_bytes())
    run(["pip", "install", "./copy"], tmp_path, env)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "suite.yaml").write_bytes((EXAMPLE / "suite.yaml").read_bytes())
    listed = run(["bakeoff", "list", "algorithms"], elsewhere, env)
    assert "batch_baseline" in listed
    assert "bakeoff-batch-baseline 0.1.0 (bakeoff_batch_baseline:BatchBaseline)" in listed
    run(["bakeoff", "run", "suite.yaml", "--out", "run", "--workers", "1", "--quiet"], elsewhere, env)
    rows = (elsewhere / "run" / "report" / "leaderboard.csv").read_text()
    assert "batch_baseline" in rows
    assert "raw" in rows
    manifest = (elsewhere / "run" / "manifest.json").read_text()
    assert '"bakeoff-batch-baseline": "0.1.0"' in manifest
    place = run(
        [str(tmp_path / "env/bin/python"), "-c", "import bakeoff_batch_baseline as m; print(m.__file__)"],
        elsewhere,
        env,
    )
    assert place.startswith(str(tmp_path / "env"))


@pytest.mark.slow
def test_every_command_of_the_page_works_in_its_order(tmp_path: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(commands) >= 8
    env, cwd = environment(tmp_path / "env"), tmp_path
    outputs = {}
    for command in commands:
        if command.startswith("cd "):
            cwd = cwd / command.removeprefix("cd ")
        else:
            outputs[command] = run(command, cwd, env)
    shown = re.findall(r"```text\n(batch_baseline: .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown == [next(text for command, text in outputs.items() if command.startswith("bakeoff check"))]
    assert (cwd / "runs" / "first" / "report" / "index.html").is_file()
