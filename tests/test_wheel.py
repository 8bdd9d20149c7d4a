"""What is installed: the wheel holds `medsmith` and `mediflow`, with their data, and nothing with a common name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as its build backend makes it, offline, without a build environment."""
    place = tmp_path_factory.mktemp("wheel")
    code = "import sys, hatchling.build as backend; print(backend.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return place / done.stdout.strip().splitlines()[-1]


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_owns_two_names(wheel: Path) -> None:
    """The top level is exactly medsmith, mediflow and the metadata: `align` would overwrite another package."""
    assert {name.split("/")[0] for name in names_in(wheel)} == {"medsmith", "mediflow", "medsmith-0.1.0.dist-info"}


@pytest.mark.parametrize("suffix", [".py", ".yml", ".jinja"])
def test_the_wheel_holds_every_file_of_its_packages(wheel: Path, suffix: str) -> None:
    """Every module, task, document and prompt file of the two packages is in the wheel, not only the modules."""
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in ("medsmith", "mediflow")
        for path in (ROOT / package).rglob(f"*{suffix}")
    }
    assert ours
    assert ours - names_in(wheel) == set()


def test_the_installed_wheel_runs_far_from_the_clone(wheel: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere, the floor and the generator import from there, and the taxonomy finds its files."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        "import medsmith.cli, medsmith.pipeline, mediflow.generate\n"
        "from mediflow.taxonomy import load_taxonomy\n"
        "print(medsmith.cli.__file__)\n"
        "print(len(load_taxonomy().tasks))\n"
    )
    # PYTHONPATH comes before the development install of the clone, and -P keeps the working folder out.
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    place, tasks = done.stdout.split()
    assert Path(place).is_relative_to(site)
    assert int(tasks) == len(list((ROOT / "mediflow" / "tasks").glob("*.yml")))


def test_the_lock_pins_every_dependency() -> None:
    """requirements.lock is lines of name==version and holds every dependency but what needs a GPU elsewhere."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)] == []
    pinned = {normalised(line) for line in lines}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = settings["project"]
    wanted = [*project["dependencies"], *settings["dependency-groups"]["dev"]]
    wanted += [line for lines in project["optional-dependencies"].values() for line in lines]
    assert {normalised(line) for line in wanted} - pinned == {"medsmith", "vllm", "deepspeed"}


def normalised(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]).lower()
