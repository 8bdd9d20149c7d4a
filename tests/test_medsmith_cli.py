from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medsmith import machine, run
from medsmith.cli import main
from tests.toy_clone import make_clone, started

PIPELINE = """
name: chain
vars: {letters: 2}
steps:
  a: {run: toy.make, with: {text: abc}}
  first: {run: toy.join, with: {inputs: ["${a}"], letters: "${letters}"}}
"""


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a clone with the stage `toy` and a pipeline."""
    make_clone(tmp_path)
    (tmp_path / "p.yml").write_text(PIPELINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def call(*arguments: str) -> int:
    """`medsmith …` in this process, with the test runner's signal handlers put back; the exit code."""
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    return 0


def test_help_lists_verbs_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`medsmith` alone and --help show the verbs and, with their first line, the commands of this folder."""
    for arguments in ((), ("--help",)):
        assert call(*arguments) == 0
        out = capsys.readouterr().out
        assert "plan      show what a run would do" in out
        assert "toy.count                Do rows one by one, each journaled." in out


def test_a_commands_help_lists_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    """Each setting has name, type, default, meaning, and what it does to identity."""
    assert call("toy.join", "--help") == 0
    out = capsys.readouterr().out
    assert "usage: medsmith toy.join [recipe.yml] [key=value …]" in out
    assert "  inputs  (list[Path], required) [input: identified by its content]\n      folders of toy.make" in out
    assert "  letters  (int, default 100)\n      how many letters are kept" in out
    assert "  out  (Path, required) [execution: no part of the identity]" in out
    assert "medsmith toy.join recipe.yml out=out/toy/join seed=1" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rum", "p.yml"], "there is no command 'rum'; did you mean 'run'?"),
        (["toy.jion"], "there is no command 'toy.jion'; did you mean 'toy.join'?"),
        (["tyo.join"], "there is no command 'tyo.join'; did you mean 'toy.join'?"),
        (["toy.make", "txt=a"], "unknown key 'txt'; did you mean 'text'?"),
        (["toy.make", "none.yml"], "no such file: none.yml; give the path of a YAML recipe"),
        (["run", "q.yml"], "no such file: q.yml"),
        (["run", "p.yml", "--jobs", "0"], "--jobs 0: give at least 1"),
        (["why", "p.yml", "fist"], "no step 'fist' in p.yml; did you mean 'first'?"),
        (["status", "nowhere"], "no such file or folder: nowhere"),
        (["status"], "nothing below out/ yet"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every mistake of a user is `error: …` on one line, and names the nearest right word."""
    assert call(*arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_outside_a_clone_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there are no stage folders the error says where commands are found."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert call("experts_of_nobody.train") == 2
    assert "commands are found in the current folder: change to the clone" in capsys.readouterr().err


def test_a_command_ends_with_its_counts(
    clone: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """One line of counts goes to the log; standard output stays the folder alone."""
    (clone / "r.yml").write_text("out: out/x\ntext: abc\n")
    with caplog.at_level("INFO"):
        assert call("toy.make", "r.yml") == 0
    counts = json.loads((clone / "out/x/run.json").read_text())["counts"]
    assert counts and caplog.messages == ["finished: " + ", ".join(f"{n} {name}" for name, n in counts.items())]
    assert capsys.readouterr().out == "out/x\n"


def test_a_finished_folder_is_not_replaced_in_silence(clone: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another setting names itself before the folder is made anew; a first run and an up-to-date one say nothing."""
    (clone / "r.yml").write_text("out: out/x\ntext: abc\n")
    assert call("toy.make", "r.yml") == call("toy.make", "r.yml") == 0
    assert "made anew" not in caplog.text
    assert call("toy.make", "r.yml", "text=xyz") == 0
    assert "out/x was finished and is made anew (text: abc → xyz)" in caplog.messages


def test_a_single_command(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command by itself runs once, is left alone when it is up to date, and runs again on --again or a change."""
    (clone / "r.yml").write_text("out: out/x\ntext: abc\n")
    assert call("toy.make", "r.yml") == 0
    assert capsys.readouterr().out == "out/x\n"
    assert call("toy.make", "r.yml") == 0
    assert started(clone) == ["x"]
    assert call("toy.make", "r.yml", "--again") == 0
    assert call("toy.make", "out=out/x", "text=abcd") == 0
    assert started(clone) == ["x"] * 3
    assert (clone / "out/x/text.txt").read_text() == "abcd"


def test_a_missing_package_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An optional package that is absent is named with the command that installs it."""
    assert call("toy.make", "out=out/x", "fail=package") == 2
    errors = capsys.readouterr().err
    assert errors == (
        "error: the package 'not_installed_anywhere' is needed here; install it: pip install 'not-installed-anywhere'\n"
    )


def test_bugs_show_all() -> None:
    """What a user cannot mend keeps its traceback."""
    with pytest.raises(ValueError, match="a bug"):
        call("toy.make", "out=out/x", "fail=bug")


def test_install_hints_know_versions_and_other_names(tmp_path: Path) -> None:
    """The version comes from our own metadata, the package's name where it differs from the module's, the lock."""
    assert machine.install_hint("PIL") == "install it: pip install 'pillow'"
    assert machine.install_hint("trl").startswith("install it: pip install 'trl")
    (tmp_path / "requirements.lock").write_text("# pins\nPillow==1.0\n")
    assert machine.install_hint("PIL") == "install it: pip install -c requirements.lock 'pillow'"


def test_plan_run_status_why(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """plan shows and does nothing; run does it; status and why tell; another setting shows in all of them."""
    assert call("plan", "p.yml") == 0
    out = capsys.readouterr().out
    assert "a      toy.make  1        would run  never run" in out
    assert "first  toy.join  1        would run  waits for a" in out
    assert not (clone / "out").exists()

    assert call("run", "p.yml") == 0
    out = capsys.readouterr().out
    assert "chain: 2 built, 0 up to date" in out
    assert "results: out/chain" in out

    assert call("run", "p.yml", "--dry-run", "a.text=abd") == 0
    out = capsys.readouterr().out
    assert "would run  stale: setting text: 'abc' -> 'abd'" in out
    assert "waiting    waits for a; runs only where their results change" in out
    assert "1 would run, 1 waiting" in out

    assert call("why", "p.yml", "first", "letters=1") == 0
    assert "first: stale\n  setting letters: 2 -> 1\n" in capsys.readouterr().out

    assert call("status", "p.yml", "a.text=abd") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[2].split() == ["a", "stale", *out.splitlines()[2].split()[2:]]
    assert "1 stale, 1 waiting" in out


def test_status_of_a_folder_remembers_the_arguments(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`medsmith status` finds the pipelines below out/ and judges them by the arguments of their last run."""
    assert call("run", "p.yml", "letters=1", "--only", "first", "a.text=x") == 0
    capsys.readouterr()
    for arguments in (("status",), ("status", "out/chain")):
        assert call(*arguments) == 0
        assert "  2 finished" in capsys.readouterr().out
    assert call("status", "out/chain/first") == 0
    assert "out/chain/first  finished" in capsys.readouterr().out


def test_a_failed_step_exits_1(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The code tells scripts that a step failed; status says why."""
    assert call("run", "p.yml", "a.fail=user") == 1
    assert "failed: a" in capsys.readouterr().out
    assert call("status", "out/chain") == 0
    out = capsys.readouterr().out
    assert "UserError: the text is bad; write another" in out
    assert "1 failed, 1 to do" in out


def test_the_report_is_pointed_at(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the last step wrote report.html, the run ends with its place."""
    assert call("run", "p.yml") == 0
    (clone / "toy" / "join.py").write_text(
        (clone / "toy" / "join.py").read_text().replace('"text.txt").write_text', '"report.html").write_text')
    )
    assert call("run", "p.yml", "first.label=page") == 0
    assert "open out/chain/first/report.html" in capsys.readouterr().out


def test_doctor_never_shows_a_key(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are set or not set; what is missing comes with its remedy."""
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    call("doctor")
    out = capsys.readouterr().out
    assert "hf_verysecret" not in out
    lines = {line[5:].split()[0]: line.split(maxsplit=2)[-1] for line in out.splitlines()}
    assert lines["HF_TOKEN"] == "set"
    assert lines["OPENAI_API_KEY"] == "not set"
    assert lines["hub"].startswith("http://127.0.0.1:1")
    assert lines["cores"].startswith(f"{machine.cores()} of ")
    assert lines["versions"] == "no requirements.lock here to compare with"


def test_doctor_compares_with_the_lock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A version other than the locked one is named with both."""
    (tmp_path / "requirements.lock").write_text("# pins\npydantic==0.1\nno-such-package==1\n")
    call("doctor")
    assert "1 of 1 differ from requirements.lock: pydantic " in capsys.readouterr().out


def test_python_m_works_and_stops_gently(clone: Path) -> None:
    """`python -m toy.count …` is the same command; SIGTERM leaves a state that the next call continues."""
    words = [sys.executable, "-m", "toy.count", "out=out/c", "rows=30"]
    environment = {**os.environ, "PYTHONPATH": str(Path(run.__file__).parents[1])}
    with subprocess.Popen([*words, "seconds=0.1"], env=environment, stderr=subprocess.PIPE, text=True) as process:
        journal = clone / "out/c/raw/rows.txt"
        end = time.monotonic() + 15
        while not (journal.exists() and len(journal.read_text().split()) > 2) and time.monotonic() < end:
            time.sleep(0.02)
        process.terminate()
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted; run the same command again to continue"
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "out/c\n"
    assert journal.read_text().split() == [str(number) for number in range(30)]


def test_a_closed_pipe_is_no_traceback(clone: Path) -> None:
    """`medsmith … | head -1` ends quietly."""
    environment = {**os.environ, "PYTHONPATH": str(Path(run.__file__).parents[1])}
    line = f"{sys.executable} -u -m medsmith.cli --help | head -1"
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
