"""What is installed is what is in the tree."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import bakeoff

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


def requirements() -> list[Requirement]:
    project = SETTINGS["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "redteam" for line in lines]
    return [Requirement(line) for line in (*project["dependencies"], *extras)]


def test_every_dependency_is_bounded() -> None:
    for requirement in requirements():
        assert {part.operator for part in requirement.specifier} == {">=", "<"}, str(requirement)


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    for requirement in requirements():
        assert requirement.specifier.contains(pins[requirement.name.lower()]), str(requirement)


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


def test_the_version_is_the_same_everywhere() -> None:
    assert metadata.version("bakeoff") == bakeoff.__version__, "run pip install -e . again"
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^version: (.+)$", citation) == [bakeoff.__version__]
    (date,) = re.findall(r'(?m)^date-released: "(.+)"$', citation)
    assert f"\n## {bakeoff.__version__} - {date}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


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


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the sdist of the tracked files, and the wheel that is built from the sdist alone."""
    home = tmp_path_factory.mktemp("packages")
    copy = home / "copy"
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (copy / name).symlink_to(os.readlink(ROOT / name))
        else:
            (copy / name).write_bytes((ROOT / name).read_bytes())
    script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run([sys.executable, "-c", script, str(home)], copy)
    (sdist,) = home.glob("*.tar.gz")
    wheels = {}
    for origin, source in (("tree", "."), ("sdist", str(sdist))):
        build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
        run([*build, "-w", str(home / origin), source], copy if origin == "tree" else home)
        (wheels[origin],) = (home / origin).glob("*.whl")
    return {**wheels, "source": sdist}


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0")[:-1] if os.path.lexists(ROOT / name)]


def run(command: Sequence[str], cwd: Path, **variables: str) -> str:
    ran = subprocess.run(
        command, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_tree(packages: dict[str, Path]) -> None:
    inside = set(zipfile.ZipFile(packages["tree"]).namelist())
    expected = {
        "bakeoff/" + name.removeprefix("src/bakeoff/")
        for name in tracked()
        if name.startswith(("src/bakeoff/", *(f"{folder}/" for folder in FOLDERS)))
        and not (ROOT / name).is_symlink()
        and not {"speed", "studies"} & set(name.split("/"))
    }
    assert expected - inside == set()
    assert not [name for name in inside if name.split("/")[0] in FOLDERS], "no bare top-level package"


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(packages: dict[str, Path]) -> None:
    contents = [
        {file.filename: file.CRC for file in zipfile.ZipFile(packages[origin]).infolist()}
        for origin in ("tree", "sdist")
    ]
    assert contents[0] == contents[1]
    with tarfile.open(packages["source"]) as archive:
        assert not [member.name for member in archive if not (member.isreg() or member.isdir())], "plain files only"


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["tree", "sdist"])
def test_an_installed_wheel_runs_elsewhere(origin: str, packages: dict[str, Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-compile",
            "--target",
            str(site),
            str(packages[origin]),
        ],
        tmp_path,
    )
    script = "import bakeoff; print(bakeoff.__file__); [bakeoff.make_task(t) for t in ('exact', 'reviews')]"
    printed = run([sys.executable, "-P", "-c", script], tmp_path, PYTHONPATH=str(site))
    assert printed.startswith(str(site))
