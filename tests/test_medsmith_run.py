from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

from medsmith import run
from medsmith.config import Config, execution
from medsmith.digests import file_digest, output_digests
from medsmith.errors import UserError


class Settings(Config):
    libraries: ClassVar[tuple[str, ...]] = ("pydantic",)
    data: Path | None = None
    sources: dict[str, Path] = {}
    rate: float = 0.1
    shape: tuple[int, int] = (2, 3)
    device: str = execution("auto", "where")


class Later(Settings):
    schema_version: ClassVar[int] = 2


class Other(Settings):
    libraries: ClassVar[tuple[str, ...]] = ("pydantic", "pyyaml")


def make(folder: Path, text: str = "x", **settings: object) -> Path:
    """A finished run that wrote one text."""
    with run.start(Settings(out=folder, **settings), "toy.make") as this:
        (folder / "text.txt").write_text(text)
        return this.finish(rows=1)


def key(config: Config, command: str = "toy.make") -> str:
    return run.key_of(run.step_identity(command, config))


def test_identity_changes_with_what_changes_the_result(tmp_path: Path) -> None:
    """A setting, an input's content, the command, the schema version, a library: another key. Place and device: not."""
    data = tmp_path / "data.txt"
    data.write_text("one")
    same = key(Settings(out=tmp_path / "a", data=data))
    assert key(Settings(out=tmp_path / "b", data=data, device="cuda")) == same
    moved = tmp_path / "moved.txt"
    moved.write_text("one")
    assert key(Settings(out=tmp_path / "a", data=moved)) == same
    moved.write_text("two")
    others = {
        key(Settings(out=tmp_path / "a", data=moved)),
        key(Settings(out=tmp_path / "a", data=data, rate=0.2)),
        key(Settings(out=tmp_path / "a", data=data, seed=1)),
        key(Settings(out=tmp_path / "a", data=data), "toy.other"),
        key(Later(out=tmp_path / "a", data=data)),
        key(Other(out=tmp_path / "a", data=data)),
        key(Settings(out=tmp_path / "a", sources={"data": data})),
        same,
    }
    assert len(others) == 8


def test_identity_compares_equal_after_reading_back(tmp_path: Path) -> None:
    """Tuples and the like are what JSON makes of them, so a finished run is current for its own settings."""
    config = Settings(out=tmp_path / "a", shape=(4, 5))
    with run.start(config, "toy.make") as this:
        this.finish()
    assert run.is_current("toy.make", config)
    assert not run.is_current("toy.make", Settings(out=tmp_path / "a", shape=(4, 6)))


def test_record_says_what_was_made(tmp_path: Path) -> None:
    """run.json holds counts, facts, outputs, versions, times and memory; started.json and checkpoints are gone."""
    with run.start(Settings(out=tmp_path / "a"), "toy.make") as this:
        assert run.read_started(tmp_path / "a") is not None
        (tmp_path / "a" / "checkpoints").mkdir()
        (tmp_path / "a" / "text.txt").write_text("x")
        this.facts["licences"] |= {"pubmed": "CC0"}
        this.finish(rows=3, dropped=1)
    record = run.require_finished(tmp_path / "a")
    assert record["counts"] == {"rows": 3, "dropped": 1}
    assert record["facts"] == {"licences": {"pubmed": "CC0"}, "simulated": False, "credentialed": []}
    assert list(record["outputs"]) == ["text.txt"]
    assert record["digest"] == run.digest(tmp_path / "a")
    assert set(record["versions"]) == {"pydantic"}
    assert len(record["git"]["commit"]) == 40
    assert 10 * 2**20 < record["peak_memory_bytes"] < 2**36
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".lock", "run.json", "text.txt"]


def test_facts_and_ancestry_are_inherited(tmp_path: Path) -> None:
    """Licences and the simulated mark come down from every input; the ancestry names each run once, parents first."""
    with run.start(Settings(out=tmp_path / "a"), "toy.make") as this:
        this.facts["licences"] |= {"clinic": "none"}
        this.facts["simulated"] = True
        (tmp_path / "a" / "text.txt").write_text("a")
        this.finish()
    (tmp_path / "mine.txt").write_text("mine")
    make(tmp_path / "b", data=tmp_path / "a" / "text.txt")
    make(tmp_path / "c", sources={"a": tmp_path / "a", "b": tmp_path / "b", "m": tmp_path / "mine.txt"})
    record = run.require_finished(tmp_path / "c")
    licences = {"clinic": "none", "mine.txt": "unknown"}
    assert record["facts"] == {"licences": licences, "simulated": True, "credentialed": []}
    assert [entry["name"] for entry in record["ancestry"]] == ["a", "b", "mine.txt"]
    a, b, mine = (entry["key"] for entry in record["ancestry"])
    assert record["parents"] == {"sources.a": a, "sources.b": b, "sources.m": mine}
    assert record["ancestry"][1]["parents"] == [a]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("new.txt", True),
        ("deep/new.txt", True),
        ("deep/log/new.txt", True),
        ("log/new.txt", False),
        ("checkpoints/new.bin", False),
        ("server.log", False),
        (".hidden", False),
        ("half.jsonl.partial", False),
        ("published.json", False),
        ("README.md", False),
    ],
)
def test_digest_sees_content_and_not_what_carries_time(tmp_path: Path, name: str, counts: bool) -> None:
    """A new file changes the digest unless it is a log, a checkpoint, hidden, half written or only about the rest."""
    make(tmp_path / "a")
    before = run.digest(tmp_path / "a")
    (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "a" / name).write_text("new")
    assert (run.digest(tmp_path / "a") != before) is counts


def test_digest_is_of_names_and_bytes(tmp_path: Path) -> None:
    """Equal folders have equal digests wherever they lie; a renamed file changes it, a touched one does not."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.txt").write_text("1")
    assert run.digest(tmp_path / "a") == run.digest(tmp_path / "b")
    os.utime(tmp_path / "a" / "one.txt", (1, 1))
    assert run.digest(tmp_path / "a") == run.digest(tmp_path / "b")
    (tmp_path / "a" / "one.txt").rename(tmp_path / "a" / "two.txt")
    assert run.digest(tmp_path / "a") != run.digest(tmp_path / "b")
    with pytest.raises(UserError, match="no such file or folder"):
        run.digest(tmp_path / "c")


def test_memo_is_not_fooled_by_times_set_back(tmp_path: Path) -> None:
    """An old file of equal size and modification time but other content has another digest."""
    path = tmp_path / "model.bin"
    path.write_text("one")
    os.utime(path, (1, 1))
    time.sleep(0.01)
    first = file_digest(path)
    path.write_text("two")
    os.utime(path, (1, 1))
    assert file_digest(path) != first


def test_unfinished_inputs_are_refused(tmp_path: Path) -> None:
    """A folder that was started and not finished is no input, nor is a file in it; a torn run.json is unfinished."""
    with contextlib.suppress(KeyboardInterrupt), run.start(Settings(out=tmp_path / "a"), "toy.make"):
        (tmp_path / "a" / "text.txt").write_text("half")
        raise KeyboardInterrupt
    for read in (run.require_finished, run.digest):
        with pytest.raises(UserError, match="finish"):
            read(tmp_path / "a")
    with pytest.raises(UserError, match="belongs to an unfinished run"):
        run.digest(tmp_path / "a" / "text.txt")
    make(tmp_path / "b")
    (tmp_path / "b" / "run.json").write_text('{"command": "toy')
    with pytest.raises(UserError, match="was started and not finished"):
        run.require_finished(tmp_path / "b")
    with pytest.raises(UserError, match="unfinished"):
        run.digest(tmp_path / "b")
    with pytest.raises(UserError, match="is not a finished run"):
        run.require_finished(tmp_path)


def stop_half_way(config: Settings) -> bool:
    """Begin a run, leave a journal, a checkpoint, a result and logs, and be interrupted; was it resumed?"""
    resumed = False
    with contextlib.suppress(KeyboardInterrupt), run.start(config, "toy.make") as this:
        resumed = this.resumed
        for name in ("raw/calls.jsonl", "checkpoints/step-1", "half.txt", "log/step.log", "log/metrics.jsonl"):
            (config.out / name).parent.mkdir(exist_ok=True)
            (config.out / name).write_text("x")
        raise KeyboardInterrupt
    return resumed


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_same_identity_resumes_with_everything(tmp_path: Path) -> None:
    """A killed run of the same settings finds all that it left; the device may differ."""
    assert not stop_half_way(Settings(out=tmp_path / "a"))
    with run.start(Settings(out=tmp_path / "a", device="cuda"), "toy.make") as this:
        assert this.resumed
        expected = ["checkpoints/step-1", "half.txt", "log/metrics.jsonl", "log/step.log", "raw/calls.jsonl"]
        assert [name for name in files(tmp_path / "a") if "/" in name or name == "half.txt"] == expected


def test_other_identity_keeps_only_the_journals(tmp_path: Path) -> None:
    """With another setting all goes but raw/ and the runner's own log."""
    stop_half_way(Settings(out=tmp_path / "a"))
    with run.start(Settings(out=tmp_path / "a", rate=0.5), "toy.make") as this:
        assert not this.resumed
        assert files(tmp_path / "a") == [".lock", "log/step.log", "raw/calls.jsonl", "started.json"]


def test_a_finished_run_is_made_anew(tmp_path: Path) -> None:
    """Started again with the same settings, a finished run keeps its journals only: what lies there may be altered."""
    make(tmp_path / "a")
    (tmp_path / "a" / "raw").mkdir()
    (tmp_path / "a" / "raw" / "calls.jsonl").write_text("x")
    with run.start(Settings(out=tmp_path / "a"), "toy.make") as this:
        assert not this.resumed
        assert files(tmp_path / "a") == [".lock", "raw/calls.jsonl", "started.json"]


def test_a_kill_while_clearing_is_cleared_again(tmp_path: Path) -> None:
    """A folder killed between clearing and starting is ours, is cleared once more, and is not taken as resumed."""
    stop_half_way(Settings(out=tmp_path / "a"))
    started = tmp_path / "a" / "started.json"
    started.write_text(json.dumps({**json.loads(started.read_text()), "identity": {}}))
    with run.start(Settings(out=tmp_path / "a"), "toy.make") as this:
        assert not this.resumed
        assert not (tmp_path / "a" / "half.txt").exists()


def test_a_try_killed_in_its_first_moment_is_ours(tmp_path: Path) -> None:
    """A folder that holds only a half-written started.json is used, and ends with nothing half-written."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "started.json.partial").write_text('{"ident')
    make(tmp_path / "a", "whole")
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.suffix == ".partial") == []


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    """Files that no run of ours wrote are never cleared, also not by the second try with other settings."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("precious")
    for rate in (0.1, 0.5):
        with (
            pytest.raises(UserError, match="holds files that no run of ours wrote"),
            run.start(Settings(out=tmp_path / "a", rate=rate), "toy.make"),
        ):
            pass
    assert files(tmp_path / "a") == [".lock", "thesis.txt"]


def test_an_input_or_the_run_of_another_command_is_not_cleared(tmp_path: Path) -> None:
    """`out=` given as an input, the folder above it, or a folder that another command finished changes nothing."""
    made = make(tmp_path / "a" / "b")
    before = output_digests(made)
    stop_half_way(Settings(out=tmp_path / "c"))
    (tmp_path / "c" / "text.txt").write_text("x")
    for config, message in (
        (Settings(out=made, data=made), "would clear the input data="),
        (Settings(out=tmp_path / "c", data=tmp_path / "c" / "text.txt"), "unfinished"),
        (Settings(out=made, sources={"one": made / "text.txt"}), "would clear the input sources.one="),
        (Settings(out=made), "holds a run of toy.make, not of toy.use"),
        (Settings(out=tmp_path / "c"), "holds a run of toy.make, not of toy.use"),
    ):
        with pytest.raises(UserError, match=message), run.start(config, "toy.use"):
            pass
    assert output_digests(made) == before
    assert run.is_intact(made, run.require_finished(made))


def test_a_failed_run_says_so(tmp_path: Path) -> None:
    """An error is noted in started.json in one line, and raised."""
    with pytest.raises(ValueError, match="a bug"), run.start(Settings(out=tmp_path / "a"), "toy.make"):
        raise ValueError("a bug\nwith details")
    tried = run.read_started(tmp_path / "a")
    assert tried is not None
    assert tried["error"] == "ValueError: a bug"
    assert tried["identity"] == run.step_identity("toy.make", Settings(out=tmp_path / "a"))


def test_an_input_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    """A run whose input changed while it read cannot finish."""
    data = tmp_path / "data.txt"
    data.write_text("one")
    with (
        pytest.raises(UserError, match=r"the input 'data' .* changed while toy.make ran; run it again"),
        run.start(Settings(out=tmp_path / "a", data=data), "toy.make") as this,
    ):
        data.write_text("two")
        this.finish()
    assert run.read_record(tmp_path / "a") is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "is full; free some space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "is full; free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "/data/x: Permission denied; mend the perm"),
    ],
)
def test_storage_faults_are_one_line(tmp_path: Path, error: Exception, message: str) -> None:
    """A full disk, told by the system or by a library, and a forbidden file are the user's to mend."""
    with pytest.raises(UserError, match=message), run.start(Settings(out=tmp_path / "a"), "toy.make"):
        raise error


def test_an_out_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """A file where the folder should be is not hidden behind a riddle."""
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(UserError, match="Not a directory; choose another out="),
        run.start(Settings(out=tmp_path / "file" / "a"), "toy.make"),
    ):
        pass


HOLD = """
import sys, pathlib
from medsmith import run
from medsmith.config import Config
with run.start(Config(out=pathlib.Path(sys.argv[1])), "held.make"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """While another process holds a folder it cannot be started here; when that process is killed it can, at once."""
    folder = tmp_path / "a"
    words = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert run.is_held(folder)
        with (
            pytest.raises(UserError, match="is being written by another process"),
            run.start(Config(out=folder), "held.make"),
        ):
            pass
        assert run.is_held(folder)
        other.kill()
    assert not run.is_held(folder)
    with run.start(Config(out=folder), "held.make") as this:
        assert this.resumed
        assert run.is_held(folder)
        this.finish()


def test_output_digests_walk_deep_and_sorted_names(tmp_path: Path) -> None:
    """Names are relative, with forward slashes, at every depth."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.txt").write_text("a")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "empty").write_text("")
    assert set(output_digests(tmp_path)) == {"deep/er/a.txt", "empty"}
    assert output_digests(tmp_path)["empty"] == empty


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """One line that says so, and the file stays."""
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match="notes is a file"), run.start(Config(out=tmp_path / "notes"), "test"):
        pass
    assert (tmp_path / "notes").read_text() == "mine"
