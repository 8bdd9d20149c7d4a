"""Write what starts a training on this machine, on several GPUs, or on a cluster.

medsmith launch align.sft recipe.yml model=… out=out/sft --on accelerate --config fsdp2 --processes 8 --run
medsmith launch align.sft recipe.yml model=… out=out/sft --on slurm --config fsdp2 --processes 8 --nodes 2
medsmith launch pipelines/embedded.yml --on slurm --sbatch partition=cpu --sbatch time=4:00:00

Settings are checked as strictly as by the command itself before anything is written. The files lie beside the run, in
`<out>.launch/`: settings.json, accelerate.yml, run.sh (what one node does) and the job. Of keys in the environment only
the names are written (--env HF_TOKEN), and run.sh stops where one is not set. Nodes share one file system.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsmith.command import Command, find_command
from medsmith.config import Config, assign, load
from medsmith.errors import UserError
from medsmith.machine import install_hint
from medsmith.yaml_files import read_yaml

PLACES = ("local", "accelerate", "slurm", "ray")
CONFIGS = ("ddp", "fsdp2", "zero2", "zero3", "cpu")
"""Shipped accelerate configurations, and processes on CPUs, which accelerate itself starts by MPI alone."""

TRL_ROWS = 8
"""TRL's and transformers' own default of per_device_train_batch_size."""


@dataclass(frozen=True)
class Job:
    """Where and how something is to run."""

    on: str
    config: str = "ddp"
    processes: int = 1
    nodes: int = 1
    threads: int | None = None
    keys: tuple[str, ...] = ()
    """Names of environment variables that the job needs; never their values."""
    sbatch: dict[str, str] = field(default_factory=dict)
    at_once: int | None = None

    @property
    def world(self) -> int:
        """Processes on all nodes together."""
        return self.processes * self.nodes

    @property
    def gpus(self) -> int:
        """GPUs of a node."""
        return 0 if self.config == "cpu" or self.on == "local" else self.processes


def main(arguments: Sequence[str]) -> int:
    """Write the files, say what to do with them, do it where --run is given; return the exit code."""
    given = _parser().parse_intermixed_args(list(arguments))
    job = _job(given)
    if Path(given.what).suffix in (".yml", ".yaml"):
        from medsmith.launch_arrays import write_arrays

        return _tell(*write_arrays(Path(given.what), given.words, job, given.into), run=given.run)
    recipe = Path(given.words.pop(0)) if given.words and "=" not in given.words[0] else None
    return _tell(*write_command(given.what, recipe, given.words, job, given.into), run=given.run)


def _tell(folder: Path, words: list[str], notes: list[str], run: bool) -> int:
    for note in notes:
        print(note, file=sys.stderr)
    if run:
        return subprocess.call(words)
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}", file=sys.stderr)
    print(" ".join(words))
    return 0


def write_command(
    name: str, recipe: Path | None, settings: Sequence[str], job: Job, into: Path | None = None
) -> tuple[Path, list[str], list[str]]:
    """Write the files for one command; return their folder, the words that start them, and what to know.

    Raises:
        UserError: a wrong setting, or processes for a command that does not train.
    """
    from medsmith.launch_files import write_job

    command = find_command(name)
    values: dict[str, Any] = read_yaml(recipe) if recipe else {}
    for setting in settings:
        values = assign(values, setting)
    config = load(command.config, values)
    _check_trains(command, job)
    folder = (into or config.out.with_name(f"{config.out.name}.launch")).absolute()
    words = write_job(folder, command.name, values, job)
    return folder, words, notes_for(command, config, job)


def trains(command: Command[Any]) -> bool:
    """Whether a command trains with TRL, and so can be one of several processes."""
    return "trainer" in command.config.model_fields


def _check_trains(command: Command[Any], job: Job) -> None:
    if job.world > 1 and not trains(command):
        raise UserError(
            f"{command.name} does not train, and {job.world} processes would each do all of its work; launch it with "
            "--processes 1"
        )


def notes_for(command: Command[Any], config: Config, job: Job) -> list[str]:
    """What a person should know before starting it."""
    notes = []
    if trains(command):
        block = getattr(config, "trainer", {})
        each = int(block.get("per_device_train_batch_size", TRL_ROWS)) * int(
            block.get("gradient_accumulation_steps", 1)
        )
        if job.world > 1:
            notes.append(
                f"{command.name}: a step takes {each * job.world} rows ({each} of each of {job.world} processes); for "
                f"the {each} of one process, divide per_device_train_batch_size"
            )
    if job.config.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        notes.append(f"deepspeed is not installed here; where this runs, {install_hint('deepspeed')}")
    return notes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medsmith launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", help="a command (align.sft) or a pipeline's YAML")
    parser.add_argument("words", nargs="*", help="[recipe.yml] [key=value …] as for the command or pipeline itself")
    parser.add_argument("--on", choices=PLACES, default="local", help="where it is to run (default: local)")
    parser.add_argument("--config", choices=CONFIGS, default="ddp", help="how processes share the work (default: ddp)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="processes on a node, one for each GPU")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes, for slurm and ray")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of a process")
    parser.add_argument("--env", nargs="+", default=[], metavar="NAME", help="variables that must be set there")
    parser.add_argument("--sbatch", action="append", default=[], metavar="KEY=VALUE", help="a line of #SBATCH")
    parser.add_argument("--at-once", type=int, metavar="N", help="at most N tasks of an array at a time")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="where the files go (default: <out>.launch)")
    parser.add_argument("--run", action="store_true", help="start it too (local and accelerate)")
    return parser


def _job(given: argparse.Namespace) -> Job:
    for name in ("processes", "nodes", "threads", "at_once"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: give at least 1")
    for key in given.env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise UserError(
                f"--env {key.partition('=')[0]}…: give the variable's name alone; its value is never written"
            )
    if given.nodes > 1 and given.on not in ("slurm", "ray"):
        raise UserError(f"--nodes {given.nodes}: --on {given.on} is one machine; use slurm or ray")
    if given.on == "local" and given.processes > 1:
        raise UserError(f"--processes {given.processes}: --on local is one process; use --on accelerate")
    if given.run and given.on not in ("local", "accelerate"):
        raise UserError(
            f"--run: a job on {given.on} is submitted by you; run the command that is printed without --run"
        )
    if given.sbatch and given.on != "slurm":
        raise UserError(f"--sbatch is for --on slurm, not for {given.on}")
    lines = {}
    for line in given.sbatch:
        key, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[a-z][a-z-]*", key) or "\n" in value:
            raise UserError(f"--sbatch {line}: write KEY=VALUE, e.g. --sbatch partition=gpu")
        lines[key] = value
    return Job(
        given.on, given.config, given.processes, given.nodes, given.threads, tuple(given.env), lines, given.at_once
    )
