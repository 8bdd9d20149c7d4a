"""The files of a launch folder, from templates/launch."""

from __future__ import annotations

import functools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medsmith.records import write_json
from medsmith.yaml_files import read_yaml

if TYPE_CHECKING:
    from medsmith.launch import Job

TEMPLATES = Path(__file__).parent / "templates" / "launch"
SETTINGS, ACCELERATE, RUN = "settings.json", "accelerate.yml", "run.sh"
WRITTEN = (SETTINGS, ACCELERATE, RUN, "job.sbatch", "ray.sh")


def write_job(folder: Path, command: str, values: dict[str, Any], job: Job) -> list[str]:
    """Write everything that one command needs; return the words that start it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in WRITTEN:  # of an earlier launch elsewhere
        (folder / name).unlink(missing_ok=True)
    write_json(folder / SETTINGS, values)
    write_accelerate(folder, job)
    write_script(folder / RUN, command, folder / SETTINGS, folder / ACCELERATE, job)
    if job.on == "slurm":
        title = f"{command} on {job.nodes} node{'s' if job.nodes > 1 else ''}"
        text = render(
            "job.sbatch.jinja",
            title=title,
            name=folder.name.removesuffix(".launch"),
            folder=folder,
            nodes=job.nodes,
            gpus=job.gpus,
            cpus=(job.threads or 1) * job.processes,
            sbatch=job.sbatch,
        )
        return ["sbatch", write(folder / "job.sbatch", text)]
    if job.on == "ray":
        entry = shlex.join([sys.executable, "-m", "medsmith.launch_ray", str(folder), str(job.nodes), str(job.gpus)])
        whole = shlex.join(["bash", "-c", f"cd {shlex.quote(str(Path.cwd()))} && exec {entry}"])
        text = render("ray.sh.jinja", title=command, python=sys.executable, entry=whole)
        return ["bash", write(folder / "ray.sh", text)]
    return ["bash", str(folder / RUN)]


def write_script(path: Path, command: str, settings: Path, accelerate: Path, job: Job) -> None:
    """The script of one node for one command."""
    text = render(
        "run.sh.jinja",
        title=command,
        clone=Path.cwd(),
        keys=job.keys,
        threads=job.threads,
        several=job.on in ("slurm", "ray") and job.world > 1,
        command=command_line(["-m", "medsmith.cli", command, str(settings)], accelerate, job),
    )
    write(path, text)


def command_line(words: list[str], accelerate: Path, job: Job) -> str:
    """The line of shell that starts a module on one node: plainly, by accelerate, or by torchrun on CPUs.

    `accelerate launch --cpu` starts one process, whatever number it is given, unless there is MPI.
    """
    if job.on == "local" or job.world == 1 and job.config in ("cpu", "ddp"):
        return shlex.join([sys.executable, *words])
    cluster = job.on in ("slurm", "ray")
    if job.config == "cpu":
        start = ["-m", "torch.distributed.run", "--nproc_per_node", str(job.processes)]
        start += ["--nnodes", str(job.nodes)] if cluster else ["--standalone"]
        place = ' --node_rank "$NODE_RANK" --master_addr "$HEAD" --master_port "$PORT"' if cluster else ""
    else:
        start = ["-m", "accelerate.commands.launch", "--config_file", str(accelerate)]
        place = ' --machine_rank "$NODE_RANK" --main_process_ip "$HEAD" --main_process_port "$PORT"' if cluster else ""
    return f"{shlex.join([sys.executable, *start])}{place} {shlex.join(words)}"


def write_accelerate(folder: Path, job: Job) -> None:
    """The shipped configuration with the job's numbers; none for processes on CPUs or a single one by itself."""
    if job.on == "local" or job.config == "cpu":
        return
    shipped = (TEMPLATES / f"{job.config}.yml").read_text(encoding="utf-8")
    comment = "".join(line for line in shipped.splitlines(keepends=True) if line.startswith("#"))
    values = read_yaml(TEMPLATES / f"{job.config}.yml") | {"num_machines": job.nodes, "num_processes": job.world}
    write(folder / ACCELERATE, comment + yaml.safe_dump(values, sort_keys=False))


def render(template: str, **values: Any) -> str:
    """A template filled in; every name in it must be given."""
    return str(_environment().get_template(template).render(**values))


@functools.cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = lambda value: shlex.quote(str(value))
    return environment


def write(path: Path, text: str) -> str:
    """Write a script that can be executed; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if path.suffix in (".sh", ".sbatch"):
        path.chmod(0o755)
    return str(path)
