"""The systems side by side: found in benchmarks/peers, installed apart from one another, run once and checked."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers
from benchmarks.measure import ROOT, Checked, MockServer, Used, check_records, run_measured
from benchmarks.record import Job

VENVS = ROOT / "benchmarks" / ".venvs"


@dataclass(frozen=True)
class System:
    """One row of a table: a module of benchmarks/peers in one of its variants."""

    module: str
    variant: str
    title: str
    full: bool
    """It keeps, checks and writes records by itself; a bare client does not."""
    requirements: tuple[str, ...]
    library: str

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return f"{self.module}:{self.variant}" if self.variant else self.module

    @property
    def ours(self) -> bool:
        """It runs in the environment of the project."""
        return not self.requirements

    def python(self, venvs: Path) -> Path:
        """The interpreter of its environment."""
        return Path(sys.executable) if self.ours else venvs / self.module / "bin" / "python"


@dataclass(frozen=True)
class Outcome:
    """One run of a system and what it left."""

    used: Used
    checked: Checked
    server: dict[str, object]


def find_systems(names: Sequence[str] = ()) -> list[System]:
    """All systems, or those named by module or by module:variant; an unknown name is a ValueError."""
    found = []
    for one in sorted(pkgutil.iter_modules(peers.__path__), key=lambda one: (one.name != "medsmith", one.name)):
        module = importlib.import_module(f"benchmarks.peers.{one.name}")
        found += [
            System(one.name, variant, title, module.FULL, module.REQUIREMENTS, module.LIBRARY)
            # The peers of other comparisons live in the same folder, and have no variants.
            for variant, title in getattr(module, "VARIANTS", {}).items()
        ]
    unknown = [name for name in names if not any(name in (one.name, one.module) for one in found)]
    if unknown:
        raise ValueError(f"no system '{unknown[0]}'; known are {', '.join(one.name for one in found)}")
    return [one for one in found if not names or one.name in names or one.module in names]


def install(system: System, venvs: Path) -> None:
    """Make the environment of a system; what pip says is shown where it fails."""
    if system.ours:
        return
    folder = venvs / system.module
    if not system.python(venvs).exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    command = [system.python(venvs), "-m", "pip", "install", "--quiet", *system.requirements]
    print(f"{system.module}: pip install {' '.join(system.requirements)}", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{system.module}: pip failed: {done.stderr.strip().splitlines()[-1]}", flush=True)


def why_not(system: System, venvs: Path) -> str | None:
    """None where the system can run, else the note to show instead of its figures."""
    python = system.python(venvs)
    if not python.exists():
        return "not installed (--install makes its environment)"
    code = f"import importlib.metadata as m; print(m.version({system.library!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"does not import: {done.stderr.strip().splitlines()[-1]}"


def version(system: System, venvs: Path) -> str:
    """The version of its library."""
    code = f"import importlib.metadata as m; print(m.version({system.library!r}))"
    command = [str(system.python(venvs)), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run_system(
    system: System,
    server: MockServer,
    records: int,
    in_flight: int,
    out: Path,
    limit: float,
    venvs: Path = VENVS,
    watch: Callable[[], bool] | None = None,
) -> Outcome:
    """Run it once into the folder `out`, whose old content goes unless there is a `watch` (a restart goes on)."""
    if watch is None:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    command = [
        str(system.python(venvs)), "-m", f"benchmarks.peers.{system.module}", "--base-url", server.base_url,
        "--records", str(records), "--in-flight", str(in_flight), "--out", str(out), "--variant", system.variant,
    ]  # fmt: skip
    used = run_measured(command, out, limit, environment(out), watch)
    planned = Job("", records, in_flight, out, "").keys
    if (out / "run" / "instructions").is_dir():
        checked = count_rows(out / "run", records)
    else:
        checked = check_records(out / "records.jsonl", planned)
    return Outcome(used, checked, server.stats())


def environment(out: Path) -> dict[str, str]:
    """As it is, but with a home of its own (no earlier cache helps anybody), and no way out to the internet."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    return {**os.environ, "HOME": str(out), "PYTHONPATH": "", "OPENAI_API_KEY": "none", **offline}


def count_rows(folder: Path, records: int) -> Checked:
    """The accepted rows of mediflow.generate; its own checks have passed them, the schema of a record does not apply.

    Each row is read, must have its texts, and its id must be there once.
    """
    checked = Checked()
    seen = set()
    for part in sorted((folder / "instructions").glob("part-*.jsonl")):
        for line in part.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            whole = row["id"] not in seen and all(row[name].strip() for name in ("instruction", "input", "output"))
            seen.add(row["id"])
            checked.valid += whole
            checked.bad += not whole
    checked.missing = max(0, records - checked.valid)
    return checked
