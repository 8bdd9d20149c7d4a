"""Running pipelines: skip, rebuild, continue, side by side, stop. Steps are real processes of a toy stage."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medsmith import machine, run
from medsmith.errors import UserError
from medsmith.pipeline import Pipeline, load_pipeline
from medsmith.runner import Outcome, execute
from medsmith.standing import explain, survey
from tests.toy_clone import events, make_clone, started


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a clone with the stage `toy`."""
    make_clone(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


CHAIN = """
name: chain
steps:
  a: {run: toy.make, with: {text: abc}}
  b: {run: toy.make, with: {text: xyz}}
  first: {run: toy.join, with: {inputs: ["${a}"], letters: 2}}
  both: {run: toy.join, with: {inputs: ["${first}/text.txt", "${b}"]}}
"""


def read(text: str, *arguments: str) -> Pipeline:
    Path("p.yml").write_text(text)
    return load_pipeline(Path("p.yml"), arguments)


def go(text: str, *arguments: str) -> Outcome:
    return execute(read(text, *arguments))


def states(text: str, *arguments: str) -> dict[str, str]:
    return {name: standing.state for name, standing in survey(read(text, *arguments)).items()}


def test_runs_in_order_then_rebuilds_nothing(clone: Path) -> None:
    """All steps run once and the result is right; a second run starts none and changes no file."""
    outcome = go(CHAIN)
    assert sorted(outcome.built) == ["a", "b", "both", "first"]
    assert (clone / "out/chain/both/text.txt").read_text() == "ABXYZ"
    assert (clone / "out/chain/a/log/threads.txt").read_text() == "1"
    before = {path: path.stat().st_mtime_ns for path in clone.glob("out/chain/*/*")}
    again = go(CHAIN)
    assert (again.built, again.failed) == ([], [])
    assert len(again.current) == 4
    assert {path: path.stat().st_mtime_ns for path in clone.glob("out/chain/*/*")} == before
    assert len(started(clone)) == 4


def test_a_change_reaches_as_far_as_it_changes_content(clone: Path) -> None:
    """A changed text rebuilds its step and the next, whose output is the same: what follows is left alone."""
    go(CHAIN)
    assert states(CHAIN, "a.text=abd") == {"a": "stale", "b": "finished", "first": "waiting", "both": "waiting"}
    outcome = go(CHAIN, "a.text=abd")
    assert outcome.built == ["a", "first"]
    assert sorted(outcome.current) == ["b", "both"]
    outcome = go(CHAIN, "a.text=bbd")
    assert outcome.built == ["a", "first", "both"]
    assert (clone / "out/chain/both/text.txt").read_text() == "BBXYZ"


def test_execution_choices_rebuild_nothing() -> None:
    """How long, how many threads, where: no reason to run again."""
    text = "name: one\nsteps:\n  b: {run: toy.make, with: {text: xyz}}\n"
    go(text)
    assert go(text.replace("xyz}", "xyz, seconds: 9}, threads: all")).current == ["b"]


def test_a_changed_file_of_the_user_is_noticed(clone: Path) -> None:
    """A step that reads a file outside any run is rebuilt when the file changes, and never served stale."""
    text = "name: p\nsteps:\n  j: {run: toy.join, with: {inputs: [mine.txt]}}\n"
    (clone / "mine.txt").write_text("one")
    go(text)
    (clone / "mine.txt").write_text("two")
    assert explain(read(text), "j")[:2] == ["j: stale", explain(read(text), "j")[1]]
    assert explain(read(text), "j")[1].startswith("  input inputs.0 (mine.txt): content 7692c3ad3540 -> 3fc4ccfe7458")
    assert go(text).built == ["j"]
    assert (clone / "out/p/j/text.txt").read_text() == "TWO"


def test_tampered_output_is_rebuilt(clone: Path) -> None:
    """A result that was edited, and one whose file was removed, are made again; what follows is as it was."""
    go(CHAIN)
    (clone / "out/chain/a/text.txt").write_text("evil")
    (clone / "out/chain/b/text.txt").unlink()
    assert states(CHAIN) == {"a": "stale", "b": "stale", "first": "waiting", "both": "waiting"}
    assert sorted(go(CHAIN).built) == ["a", "b"]
    assert (clone / "out/chain/a/text.txt").read_text() == "abc"
    (clone / "out/chain/b/run.json").write_text("{")
    assert go(CHAIN).built == ["b"]


def test_why_tells_what_changed(clone: Path) -> None:
    """Settings with old and new value, the library version, the step that made a changed input."""
    assert explain(read(CHAIN), "first") == ["first: to do", "  waits for a", "a: to do", "  never run"]
    go(CHAIN)
    assert explain(read(CHAIN), "a")[0] == "a: finished"
    assert "  built then because: never run" in explain(read(CHAIN), "a")
    assert explain(read(CHAIN, "a.text=new"), "a")[:2] == ["a: stale", "  setting text: 'abc' -> 'new'"]
    assert explain(read(CHAIN, "a.text=new"), "both")[:3] == [
        "both: waiting",
        "  waits for first",
        *explain(read(CHAIN, "a.text=new"), "both")[2:3],
    ]
    record = clone / "out/chain/b/run.json"
    content = json.loads(record.read_text())
    version = content["identity"]["libraries"]["pydantic"]
    content["identity"]["libraries"]["pydantic"] = "1.0"
    record.write_text(json.dumps(content))
    assert f"  library pydantic: 1.0 -> {version}" in explain(read(CHAIN), "b")
    execute(read(CHAIN, "a.text=new").select(["a"]))
    lines = explain(read(CHAIN, "a.text=new"), "first")
    assert lines[0] == "first: stale"
    assert lines[1].startswith("  input inputs.0 (made by a): content ")


def test_independent_steps_overlap(clone: Path) -> None:
    """Two steps of one thread run at the same time where there are two cores; with one job they do not."""
    text = """
name: side
steps:
  make-{n}: {each: {n: [1, 2]}, run: toy.make, with: {text: "t{n}", seconds: 0.6}}
"""
    if machine.cores() < 2:
        pytest.skip("needs two cores")

    def overlap() -> bool:
        times = {(step, event): when for step, event, when in events(clone)}
        starts = [times["make-1", "start"], times["make-2", "start"]]
        return max(starts) < min(times["make-1", "end"], times["make-2", "end"])

    execute(read(text))
    assert overlap()
    execute(read(text, "make-*.seed=1"), jobs=1)
    assert not overlap()


def test_steps_with_all_threads_run_alone(clone: Path) -> None:
    """The sum of threads never exceeds the cores."""
    text = """
name: side
steps:
  make-{n}: {each: {n: [1, 2]}, run: toy.make, with: {text: "t{n}", seconds: 0.3}, threads: all}
"""
    execute(read(text))
    order = [event for _, event, _ in events(clone)]
    assert order == ["start", "end", "start", "end"]
    assert (clone / "out/side/make-1/log/threads.txt").read_text() == str(machine.cores())


def test_a_failure_is_shown_and_the_rest_stays(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bug shows its traceback and log, what it needs is not run, running siblings finish, and later all continues."""
    text = CHAIN.replace("text: xyz", "text: xyz, seconds: 0.5")
    outcome = go(text, "a.fail=bug")
    assert outcome.failed == ["a"]
    assert outcome.built == ["b"]
    out = capsys.readouterr().out
    assert "a: FAILED after" in out
    assert "ValueError: a bug" in out
    assert "log: out/chain/a/log/step.log" in out
    assert states(text) == {"a": "failed", "b": "finished", "first": "to do", "both": "to do"}
    assert sorted(go(text).built) == ["a", "both", "first"]


def test_code_that_changes_while_a_pipeline_runs_is_told(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A setting that came after the pipeline began: its step is not taken for what was asked."""
    outcome = go(CHAIN, "a.fail=edit")
    assert (sorted(outcome.built), outcome.failed) == (["a", "b"], ["first"])
    assert "first: made of other code or inputs than were there when the pipeline began" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fail", "line"),
    [
        ("user", "  error: the text is bad; write another"),
        ("package", "  error: the package 'not_installed_anywhere' is needed here; install it: pip install"),
    ],
)
def test_a_users_mistake_in_a_step_is_one_line(capsys: pytest.CaptureFixture[str], fail: str, line: str) -> None:
    """No traceback for what a user can mend, a missing package included."""
    assert go(CHAIN, f"a.fail={fail}").failed == ["a"]
    out = capsys.readouterr().out
    assert line in out
    assert "Traceback" not in out


def test_a_missing_input_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A file that the step above did not write fails the step that wants it, in one line."""
    text = "name: p\nsteps:\n  a: {run: toy.make}\n  j: {run: toy.join, with: {inputs: ['${a}/txt.text']}}\n"
    assert go(text).failed == ["j"]
    assert "j: FAILED: no such file or folder: " in capsys.readouterr().out


COUNT = """
name: count
steps:
  rows: {run: toy.count, with: {rows: 12, seconds: 0.1}}
  last: {run: toy.make, with: {text: done}}
"""


def launch(*arguments: str) -> subprocess.Popen[str]:
    """`medsmith run p.yml …` as a user's process, in a group of its own."""
    root = str(Path(run.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-m", "medsmith.cli", "run", "p.yml", *arguments],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def rows(clone: Path) -> int:
    return sum(event == "row" for _, event, _ in events(clone))


def pid_of(step: Path) -> int:
    tried = run.read_started(step)
    assert tried is not None
    return int(tried["pid"])


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_killed_step_is_continued(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """kill -9 of a step half way: the run fails saying so, the next one continues, and every row is done once."""
    Path("p.yml").write_text(COUNT)
    runner = launch()
    wait_for(lambda: rows(clone) >= 3)
    os.kill(pid_of(clone / "out/count/rows"), signal.SIGKILL)
    out, _ = runner.communicate(timeout=20)
    assert runner.returncode == 1
    assert "rows: FAILED" in out
    assert "killed by SIGKILL (the machine may be out of memory)" in out
    assert states(COUNT)["rows"] == "interrupted"
    go(COUNT, "rows.seconds=0")
    assert "rows: continues" in capsys.readouterr().out
    assert [event for step, event, _ in events(clone) if step == "rows" and event != "row"] == ["start", "resume"]
    assert (clone / "out/count/rows/raw/rows.txt").read_text().split() == [str(n) for n in range(12)]
    assert len((clone / "out/count/rows/log/step.log").read_text().split("== try ")) == 3


def test_a_killed_runner_leaves_no_orphans(clone: Path) -> None:
    """kill -9 of the runner ends its steps at once, so the same command can be given again immediately."""
    Path("p.yml").write_text(COUNT)
    runner = launch()
    wait_for(lambda: rows(clone) >= 2)
    child = pid_of(clone / "out/count/rows")
    runner.kill()
    runner.communicate()
    wait_for(lambda: not alive(child), seconds=2)
    assert go(COUNT, "rows.seconds=0").failed == []
    assert (clone / "out/count/rows/raw/rows.txt").read_text().split() == [str(n) for n in range(12)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_state_to_continue(clone: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end the steps gently, say how to continue, exit 130; nothing holds a lock afterwards."""
    Path("p.yml").write_text(COUNT)
    runner = launch("last.text=other")
    wait_for(lambda: rows(clone) >= 2)
    child = pid_of(clone / "out/count/rows")
    runner.send_signal(number)
    out, _ = runner.communicate(timeout=20)
    assert runner.returncode == 130
    assert not alive(child)
    assert "interrupted; to continue: medsmith run p.yml last.text=other" in out
    assert "interrupted; run the same command again" in (clone / "out/count/rows/log/step.log").read_text()
    assert go(COUNT, "rows.seconds=0", "last.text=other").failed == []
    assert (clone / "out/count/rows/raw/rows.txt").read_text().split() == [str(n) for n in range(12)]


def test_one_runner_at_a_time(clone: Path) -> None:
    """A second `medsmith run` of the same out is refused while the first works; plan and status are not."""
    Path("p.yml").write_text(COUNT)
    runner = launch()
    wait_for(lambda: rows(clone) >= 1)
    with pytest.raises(UserError, match="another `medsmith run` is working on out/count"):
        go(COUNT)
    assert states(COUNT)["rows"] == "running"
    runner.terminate()
    runner.communicate(timeout=20)


def test_only_runs_what_is_needed(clone: Path) -> None:
    """Selecting a step runs it and what it needs, no more."""
    execute(read(CHAIN).select(["first"]))
    assert started(clone) == ["a", "first"]


def test_sixty_current_steps_cost_little(clone: Path) -> None:
    """A look at sixty finished steps with fifteen files each takes well under two seconds of CPU."""
    numbers = list(range(30))
    text = f"""
name: many
steps:
  make-{{n}}: {{each: {{n: {numbers}}}, run: toy.make, with: {{text: "t{{n}}"}}}}
  join-{{n}}: {{each: {{n: {numbers}}}, run: toy.join, with: {{inputs: ["${{make-{{n}}}}"]}}}}
  all: {{run: toy.join, with: {{inputs: ["${{*}}"]}}}}
"""
    for step in read(text).steps.values():  # finished by hand: sixty processes would take the longest
        with run.start(step.config, step.run) as this:
            for number in range(15):
                (step.folder / f"file-{number}.txt").write_text("x" * 1000)
            this.finish(rows=1)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out, _ = launch().communicate(timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "0 built, 61 up to date" in out
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5
