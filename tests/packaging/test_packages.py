"""What is installed is what is in the tree."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("algos", "envs", "benchmarks", "reports")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_in_the_tree() -> set[str]:
    home = ROOT / "src" / "bakeoff"
    found = {"bakeoff"} | {
        f"bakeoff.{f.name}" for f in home.iterdir() if not f.is_symlink() and (f / "__init__.py").exists()
    }
    for folder in FOLDERS:
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join(["bakeoff", *init.parent.relative_to(ROOT).parts]))
    return found


def test_every_package_of_the_tree_is_declared_and_no_other() -> None:
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == packages_in_the_tree()


def test_every_folder_with_code_is_a_package() -> None:
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            if not {"speed", "studies"} & set(file.parts):  # scripts that compare with peers; not installed
                assert (file.parent / "__init__.py").is_file(), f"{file.parent} has code but no __init__.py"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_links_for_type_checkers_lead_to_the_folders(folder: str) -> None:
    link = ROOT / "src" / "bakeoff" / folder
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{folder}"


def test_entry_points_lead_to_objects() -> None:
    from bakeoff import registry

    for group in (registry.algorithms, registry.tasks, registry.rewards, registry.suites):
        assert group.names()
        for name in group.names():
            assert group.load(name) is not None


@pytest.mark.slow
def test_the_type_checker_sees_through_the_links() -> None:
    """A planted mistake that mypy must find: a linked folder that it skipped would pass without a word."""
    planted = Path(__file__).with_name("planted_type_error.py")
    found = subprocess.run(
        [sys.executable, "-m", "mypy", str(planted)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    wrong = [line for line in found.stdout.splitlines() if "planted_type_error.py" in line and "error:" in line]
    assert found.returncode == 1, found.stdout + found.stderr
    assert [line.rpartition("[")[2] for line in wrong] == ["arg-type]", "attr-defined]"], found.stdout


@pytest.mark.slow
def test_the_wheel_holds_every_file_and_runs_elsewhere(tmp_path: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    copy = tmp_path / "copy"
    for name in tracked:
        if not (ROOT / name).is_symlink() and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    subprocess.run(build, cwd=copy, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        "bakeoff/" + name.removeprefix("src/bakeoff/")
        for name in tracked
        if name.startswith(("src/bakeoff/", *(f"{folder}/" for folder in FOLDERS)))
        and not (ROOT / name).is_symlink()
        and (ROOT / name).exists()
        and not {"speed", "studies"} & set(name.split("/"))
    }
    assert expected - inside == set()
    assert not [name for name in inside if name.split("/")[0] in FOLDERS], "no bare top-level package"

    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    script = "import bakeoff; print(bakeoff.__file__); [bakeoff.make_task(t) for t in ('exact', 'reviews')]"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(site))
