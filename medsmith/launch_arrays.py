"""A pipeline as Slurm arrays: steps that do not need one another side by side, level after level.

A task runs its step as `medsmith run` would and skips it where it is up to date, so `medsmith status` and a later
`medsmith run` see the same finished steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from medsmith.errors import UserError
from medsmith.launch import Job, notes_for, trains
from medsmith.launch_files import ACCELERATE, render, write, write_accelerate, write_script
from medsmith.pipeline import Pipeline, Step, load_pipeline
from medsmith.records import write_json


class Array(NamedTuple):
    """Steps of one level that want the same of a node."""

    variable: str
    label: str
    file: str
    after: str
    """The jobs that must have ended well, as Slurm writes them."""


def write_arrays(file: Path, settings: Sequence[str], job: Job, into: Path | None) -> tuple[Path, list[str], list[str]]:
    """Write a script for each step, an array for each level, and the script that submits them in order.

    Raises:
        UserError: a wrong setting of any step, or a place where a pipeline is not launched.
    """
    if job.on != "slurm":
        raise UserError(
            f"{file}: --on {job.on} is for one command; `medsmith run {file}` runs a pipeline here, --on slurm there"
        )
    if job.nodes > 1:
        raise UserError(f"--nodes {job.nodes}: a step of a pipeline runs on one node; launch it by itself")
    pipeline = load_pipeline(file, settings)
    pipeline.check()
    folder = (into or pipeline.out.with_name(f"{pipeline.out.name}.launch")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    write_accelerate(folder, job)
    notes: dict[str, None] = {}
    for step in pipeline.steps.values():
        own = _job_of(step, job)
        write_json(folder / "steps" / f"{step.name}.json", step.values)
        write_script(
            folder / "steps" / f"{step.name}.sh",
            step.run,
            folder / "steps" / f"{step.name}.json",
            folder / ACCELERATE,
            own,
        )
        notes |= dict.fromkeys(notes_for(step.command, step.config, own))
    arrays: list[Array] = []
    for number, level in enumerate(levels(pipeline)):
        before = ":".join(
            f"${{{array.variable}}}" for array in arrays if array.variable.startswith(f"level_{number - 1}_")
        )
        for kind in ("plain", "training"):
            steps = [step for step in level if trains(step.command) == (kind == "training")]
            if steps:
                arrays.append(_write_array(folder, pipeline, number, kind, steps, job, before))
    submit = write(folder / "submit.sh", render("submit.sh.jinja", title=pipeline.name, arrays=arrays))
    return folder, ["bash", submit], list(notes)


def levels(pipeline: Pipeline) -> list[list[Step]]:
    """The steps by how many must come before them on the longest way; those of one level do not need one another."""
    depth: dict[str, int] = {}
    for step in pipeline.steps.values():  # each after those that it needs
        depth[step.name] = 1 + max((depth[need] for need in step.needs), default=-1)
    found: list[list[Step]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for step in pipeline.steps.values():
        found[depth[step.name]].append(step)
    return found


def _job_of(step: Step, job: Job) -> Job:
    """Several processes for steps that train; every other step is one, with the threads that the pipeline gives it."""
    if trains(step.command):
        return replace(job, threads=job.threads or step.threads)
    return replace(job, processes=1, config="cpu", threads=step.threads)


def _write_array(
    folder: Path, pipeline: Pipeline, number: int, kind: str, steps: list[Step], job: Job, after: str
) -> Array:
    jobs = [_job_of(step, job) for step in steps]
    text = render(
        "array.sbatch.jinja",
        title=f"{pipeline.name}, level {number}",
        name=f"{pipeline.name}-{number}-{kind}",
        folder=folder,
        steps=[step.name for step in steps],
        at_once=job.at_once,
        gpus=jobs[0].gpus,
        cpus=max((one.threads or 1) * one.processes for one in jobs),
        sbatch=job.sbatch,
    )
    file = write(folder / f"level-{number}-{kind}.sbatch", text)
    return Array(f"level_{number}_{kind}", f"level {number}, {', '.join(step.name for step in steps)}", file, after)
