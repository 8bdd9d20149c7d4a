"""What a launch writes is what its place accepts: accelerate's own loader, bash, Slurm's lines, Ray."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from medsmith import launch
from medsmith.cli import main as medsmith
from medsmith.errors import UserError
from medsmith.launch_arrays import levels
from medsmith.launch_files import TEMPLATES
from medsmith.pipeline import load_pipeline

ROOT = Path(__file__).parents[1]
SFT = ("align.sft", "align/recipes/sft.yml", "model=me/model", "data=/nowhere")


def launched(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """What is printed: the command to give, and what is said beside it."""
    assert launch.main(words) == 0
    said = capsys.readouterr()
    return said.out.strip(), said.err


def sft(capsys: pytest.CaptureFixture[str], tmp_path: Path, *options: str) -> tuple[Path, str, str]:
    out, err = launched(capsys, *SFT, f"out={tmp_path / 'sft'}", *options)
    return tmp_path / "sft.launch", out, err


def exec_line(script: Path) -> list[str]:
    """The words that a script ends in."""
    last = script.read_text().strip().splitlines()[-1]
    assert last.startswith("exec ")
    return shlex.split(last)[1:]


def check_bash(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- what is shipped -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("zero2", "DEEPSPEED"), ("zero3", "DEEPSPEED")]
)
def test_accelerate_takes_the_shipped_configurations(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own class loads the file without unknown keys, and the line of run.sh passes its own parser and checks."""
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    folder, _, _ = sft(capsys, tmp_path, "--on", "slurm", "--config", name, "--processes", "8", "--nodes", "2")
    loaded = load_config_from_file(str(folder / "accelerate.yml"))
    assert isinstance(loaded, ClusterConfig)
    assert loaded.distributed_type.value == kind and (loaded.num_processes, loaded.num_machines) == (16, 2)
    words = exec_line(folder / "run.sh")
    assert words[1:3] == ["-m", "accelerate.commands.launch"]
    filled = [{"$NODE_RANK": "1", "$HEAD": "node7", "$PORT": "20001"}.get(word, word) for word in words[3:]]
    arguments = _validate_launch_command(launch_command_parser().parse_args(filled))[0]
    assert (arguments.machine_rank, arguments.main_process_ip, arguments.main_process_port) == (1, "node7", 20001)
    assert arguments.module and arguments.training_script == "medsmith.cli"
    assert arguments.training_script_args == ["align.sft", str(folder / "settings.json")]
    if name == "fsdp2":
        assert arguments.use_fsdp and str(arguments.fsdp_version) == "2"
    if name.startswith("zero"):
        assert arguments.use_deepspeed and str(arguments.zero_stage) == name[-1]


def test_a_key_that_accelerate_does_not_know_is_refused(tmp_path: Path) -> None:
    """The negative control of the test above: the same loader fails on a misspelt key."""
    from accelerate.commands.config.config_args import load_config_from_file

    values = yaml.safe_load((TEMPLATES / "fsdp2.yml").read_text()) | {"num_machine": 2}
    (tmp_path / "bad.yml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match="unknown keys.*num_machine"):
        load_config_from_file(str(tmp_path / "bad.yml"))


# --- one command -----------------------------------------------------------------------------------------------------


def test_settings_are_those_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recipe and overrides, merged: the job does not change when the recipe does before it starts."""
    folder, out, _ = sft(capsys, tmp_path, "trainer.learning_rate=1e-5", "--on", "local")
    values = json.loads((folder / "settings.json").read_text())
    assert values["trainer"]["learning_rate"] == 1e-5 and values["max_tokens"] == 320
    assert out == f"bash {folder / 'run.sh'}"
    assert exec_line(folder / "run.sh")[1:] == ["-m", "medsmith.cli", "align.sft", str(folder / "settings.json")]
    assert not (folder / "accelerate.yml").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("align.sft", "model=a/b", "data=/d", "out=o", "max_token=5"), "did you mean 'max_tokens'"),
        (("align.sft", "data=/d", "out=o"), "'model'"),
        (("align.sfd", "out=o"), "did you mean 'align.sft'"),
        (("mediflow.simulate", "out=o", "--on", "slurm", "--processes", "2"), "does not train, and 2 processes"),
        ((*SFT, "out=o", "--processes", "2"), "--on local is one process"),
        ((*SFT, "out=o", "--on", "accelerate", "--nodes", "2"), "--on accelerate is one machine"),
        ((*SFT, "out=o", "--on", "slurm", "--run"), "is submitted by you"),
        ((*SFT, "out=o", "--env", "HF_TOKEN=secret"), r"--env HF_TOKEN…: give the variable's name alone"),
        ((*SFT, "out=o", "--on", "slurm", "--sbatch", "gpu"), "write KEY=VALUE"),
        ((*SFT, "out=o", "--sbatch", "partition=gpu"), "--sbatch is for --on slurm"),
        ((*SFT, "out=o", "--on", "slurm", "--processes", "0"), "give at least 1"),
    ],
)
def test_what_would_fail_there_is_refused_here(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    """One line, and nothing is written; a secret given by mistake is not repeated."""
    filled = [f"out={tmp_path / 'o'}" if word == "out=o" else word for word in words]
    with pytest.raises(UserError, match=message) as caught:
        launch.main(filled)
    assert list(tmp_path.iterdir()) == [] and "secret" not in str(caught.value)


def test_rows_of_a_step_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four rows twice on each of sixteen processes: 128, not the 8 of the recipe alone."""
    _, _, err = sft(capsys, tmp_path, "--on", "slurm", "--processes", "8", "--nodes", "2")
    assert "a step takes 128 rows (8 of each of 16 processes)" in err
    _, _, err = sft(capsys, tmp_path, "--on", "slurm")
    assert "a step takes" not in err


def test_deepspeed_that_is_not_here_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be there where the job runs, so it is a word and no refusal."""
    folder, _, err = sft(capsys, tmp_path, "--on", "slurm", "--config", "zero3", "--processes", "2")
    assert "pip install" in err and "deepspeed" in err and (folder / "job.sbatch").is_file()


def test_keys_are_written_by_name_and_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file holds the value; the script stops before it starts anything where the variable is not set."""
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-value")
    folder, _, _ = sft(capsys, tmp_path, "--on", "slurm", "--env", "WANDB_API_KEY")
    assert all("a-secret-value" not in path.read_text() for path in folder.iterdir())
    monkeypatch.delenv("WANDB_API_KEY")
    done = subprocess.run(["bash", str(folder / "run.sh")], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "set WANDB_API_KEY in the environment of this job" in done.stderr


def test_slurm_job_asks_for_what_was_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nodes, GPUs, CPUs and the user's own lines; run.sh is started once on each node, with its rank and the head."""
    options = ("--on", "slurm", "--processes", "4", "--nodes", "2", "--threads", "6")
    folder, out, _ = sft(capsys, tmp_path, *options, "--sbatch", "partition=gpu", "--sbatch", "time=8:00:00")
    text = (folder / "job.sbatch").read_text()
    lines = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", text, re.MULTILINE))
    assert lines | {"output": ""} == {
        "job-name": "sft", "output": "", "nodes": "2", "ntasks-per-node": "1", "gpus-per-node": "4",
        "cpus-per-task": "24", "open-mode": "append", "partition": "gpu", "time": "8:00:00",
    }  # fmt: skip
    assert out == f"sbatch {folder / 'job.sbatch'}"
    check_bash(folder / "job.sbatch")

    # The job under stand-ins for Slurm's programs: the script runs on two nodes and sees the same head and port.
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text("#!/bin/bash\nprintf 'n1\\nn2\\n'\n")
    (tools / "srun").write_text('#!/bin/bash\nshift\nfor n in 0 1; do SLURM_NODEID=$n "$@"; done\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (folder / "run.sh").write_text('echo "$NODE_RANK $HEAD $PORT"\n')
    there = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "41007", "SLURM_JOB_NODELIST": "n"}
    done = subprocess.run(["bash", str(folder / "job.sbatch")], capture_output=True, text=True, check=True, env=there)
    assert done.stdout.split("\n")[:2] == ["0 n1 21007", "1 n1 21007"]


def test_processes_on_cpus_go_by_torchrun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`accelerate launch --cpu` would start one process whatever it is told."""
    from torch.distributed.run import get_args_parser

    folder, _, _ = sft(capsys, tmp_path, "--on", "accelerate", "--config", "cpu", "--processes", "2")
    words = exec_line(folder / "run.sh")
    assert words[1:3] == ["-m", "torch.distributed.run"]
    given = get_args_parser().parse_args(words[3:])
    assert given.nproc_per_node == "2" and given.standalone and given.module
    assert not (folder / "accelerate.yml").exists()


def test_a_second_launch_leaves_nothing_of_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job file for Slurm beside one for Ray would be submitted by mistake."""
    sft(capsys, tmp_path, "--on", "slurm", "--processes", "2")
    folder, out, _ = sft(capsys, tmp_path, "--on", "ray", "--processes", "2")
    assert sorted(path.name for path in folder.iterdir()) == ["accelerate.yml", "ray.sh", "run.sh", "settings.json"]
    assert out == f"bash {folder / 'ray.sh'}"
    check_bash(folder / "ray.sh")
    assert exec_line(folder / "ray.sh")[-1].endswith(f"-m medsmith.launch_ray {folder} 1 2")


def test_command_line_and_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`medsmith launch … --run` runs the command here and gives its exit code: done, then 2 for a folder of others."""
    words = ["launch", "mediflow.simulate", "patients=1", f"out={tmp_path / 'clinic'}", "--run"]
    medsmith(words)
    assert (tmp_path / "clinic" / "run.json").is_file()
    assert capfd.readouterr().out == f"{tmp_path / 'clinic'}\n"
    (tmp_path / "clinic" / "run.json").unlink()
    with pytest.raises(SystemExit) as caught:
        medsmith(words)
    assert caught.value.code == 2 and "no run of ours wrote" in capfd.readouterr().err


# --- a pipeline ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """One step, then two side by side and a training, then one of all."""
    path = tmp_path / "chain.yml"
    path.write_text(
        f"out: {tmp_path / 'chain'}\nsteps:\n"
        "  clinic: {run: mediflow.simulate, with: {patients: 5}, threads: 2}\n"
        "  table: {run: experts.corpora, with: {table: icd10cm, max_characters: 3}}\n"
        "  sft: {run: align.sft, with: {model: me/model, data: '${clinic}'}}\n"
        "  again-{n}: {each: {n: [1, 2]}, run: align.sft, with: {model: me/model, data: '${clinic}', seed: '{n}'}}\n"
        "  last: {run: align.sft, with: {model: '${sft}', data: '${clinic}'}}\n"
    )
    return path


def test_levels_hold_steps_that_do_not_need_one_another(pipeline: Path) -> None:
    """A step stands one level after the last of those that it needs."""
    found = [sorted(step.name for step in level) for level in levels(load_pipeline(pipeline))]
    assert found == [["clinic", "table"], ["again-1", "again-2", "sft"], ["last"]]


def test_pipeline_becomes_arrays_in_order(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each array waits for all of the level before; each task runs its own step; only training asks for GPUs."""
    out, err = launched(capsys, str(pipeline), "last.seed=3", "--on", "slurm", "--processes", "2", "--at-once", "2")
    folder = tmp_path / "chain.launch"
    assert out == f"bash {folder / 'submit.sh'}" and "a step takes 16 rows" in err
    assert json.loads((folder / "steps" / "last.json").read_text())["seed"] == 3
    first, second = (folder / f"level-{name}.sbatch" for name in ("0-plain", "1-training"))
    assert "gpus" not in first.read_text() and "--cpus-per-task=2" in first.read_text()
    assert "#SBATCH --gpus-per-node=2\n" in second.read_text() and "#SBATCH --array=0-2%2\n" in second.read_text()
    assert "accelerate" in " ".join(exec_line(folder / "steps" / "sft.sh"))
    assert exec_line(folder / "steps" / "clinic.sh")[1:4] == ["-m", "medsmith.cli", "mediflow.simulate"]
    for script in folder.rglob("*.s*"):
        check_bash(script)

    # Submitted under a stand-in for sbatch that counts jobs, and one array's tasks under one for srun.
    tools = tmp_path / "bin"
    tools.mkdir()
    count = tmp_path / "count"
    (tools / "sbatch").write_text(f'#!/bin/bash\necho "$@" >> {count}\nwc -l < {count}\n')
    (tools / "srun").write_text('#!/bin/bash\necho "${@: -1}"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    there = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "2"}
    subprocess.run(["bash", str(folder / "submit.sh")], check=True, env=there, capture_output=True)
    assert [line.split() for line in count.read_text().splitlines()] == [
        ["--parsable", str(folder / "level-0-plain.sbatch")],
        ["--parsable", "--dependency=afterok:1", str(folder / "level-1-training.sbatch")],
        ["--parsable", "--dependency=afterok:2", str(folder / "level-2-training.sbatch")],
    ]
    done = subprocess.run(["bash", str(second)], check=True, env=there, capture_output=True, text=True)
    assert done.stdout.strip() == str(folder / "steps" / "again-2.sh")


def test_pipelines_go_to_slurm_alone(pipeline: Path) -> None:
    """Here `medsmith run` runs one; on several nodes a step is launched by itself; a wrong setting is found first."""
    for words, message in (
        (["--on", "ray"], "`medsmith run"),
        (["--on", "slurm", "--nodes", "2"], "a step of a pipeline runs on one node"),
        (["sft.max_token=5", "--on", "slurm"], "step 'sft'.*did you mean 'max_tokens'"),
    ):
        with pytest.raises(UserError, match=message):
            launch.main([str(pipeline), *words])


def test_shipped_pipeline_becomes_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every step of the embedded pipeline has a script, and stands in just one array."""
    launched(capsys, str(ROOT / "pipelines" / "embedded.yml"), f"out={tmp_path / 'e'}", "--on", "slurm")
    folder = tmp_path / "e.launch"
    listed = [
        name
        for path in folder.glob("level-*.sbatch")
        for name in shlex.split(re.findall(r"^steps=\((.*)\)$", path.read_text(), re.MULTILINE)[0])
    ]
    assert sorted(listed) == sorted(path.stem for path in (folder / "steps").glob("*.sh")) and len(listed) > 10


# --- Ray -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ray_runs_the_script_on_a_node_and_fails_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster of one node (12 s): the script gets rank, head and port; its failure is the job's, in one line."""
    ray: Any = pytest.importorskip("ray")
    from medsmith import launch_ray

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        (tmp_path / "run.sh").write_text(f'echo "$NODE_RANK $HEAD $PORT" > {tmp_path / "said"}\n')
        assert launch_ray.main(tmp_path, nodes=1, gpus=0) == 0
        rank, head, port = (tmp_path / "said").read_text().split()
        assert rank == "0" and head.count(".") == 3 and int(port) > 1023
        (tmp_path / "run.sh").write_text("exit 3\n")
        with pytest.raises(UserError, match="ended with 3 on a node"):
            launch_ray.main(tmp_path, nodes=1, gpus=0)
    finally:
        ray.shutdown()
