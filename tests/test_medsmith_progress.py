from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from medsmith import progress
from medsmith.display import Plain, count_words, describe
from medsmith.progress import Bar, read_progress, track


def test_quiet_when_not_on_a_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a pipe or a log goes nothing, and the items come through."""
    monkeypatch.delenv(progress.VARIABLE, raising=False)
    assert list(track([1, 2, 3], "counting")) == [1, 2, 3]
    assert capfd.readouterr() == ("", "")


def test_state_is_written_for_the_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds the last state, the note stays, and nothing else is left beside it."""
    file = tmp_path / "progress.json"
    monkeypatch.setenv(progress.VARIABLE, str(file))
    with Bar("training", total=10, unit="steps", done=4) as bar:
        assert read_progress(file) == {
            "description": "training",
            "done": 4,
            "total": 10,
            "note": "",
            "unit": "steps",
            "rate": 0.0,
        }
        bar.advance(note="loss 1.5")
        bar.advance(2)
    state = read_progress(file)
    assert state is not None
    assert (state["done"], state["note"]) == (7, "loss 1.5")
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_rate_leaves_out_what_was_done_before() -> None:
    """A resumed bar at 1000 that does 5 more in 0.05 s or longer goes at no more than 100 a second."""
    with Bar("training", total=2000, done=1000) as bar:
        time.sleep(0.05)
        bar.advance(5)
        assert 0 < bar.rate <= 100


def test_writes_are_throttled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand quick items write the file a few times, not ten thousand; the last state is the true one."""
    file = tmp_path / "progress.json"
    monkeypatch.setenv(progress.VARIABLE, str(file))
    began = time.monotonic()
    for _ in track(range(10_000), "counting"):
        pass
    assert time.monotonic() - began < 1.0
    state = read_progress(file)
    assert state is not None
    assert (state["done"], state["total"]) == (10_000, 10_000)


def test_a_vanished_folder_does_not_end_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the state cannot be written the items still come through."""
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "gone" / "progress.json"))
    assert list(track(iter("ab"), "letters")) == ["a", "b"]
    assert read_progress(tmp_path / "gone" / "progress.json") is None


def test_an_error_inside_passes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar closes and the error is the caller's."""
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "progress.json"))
    with pytest.raises(ZeroDivisionError):
        for item in track([1, 0], "dividing"):
            _ = 1 / item
    state = read_progress(tmp_path / "progress.json")
    assert state is not None
    assert state["done"] == 1


def test_progress_in_words() -> None:
    """Done of total, rate, what is left, the note."""
    state = {"done": 50, "total": 200, "rate": 5.0, "note": "loss 2.1", "unit": "rows", "description": "x"}
    assert describe(state) == "50/200 rows, 5.0/s, 30 s left, loss 2.1"
    assert describe({**state, "rate": 0.05}) == "50/200 rows, 20 s each, 50 min left, loss 2.1"
    assert describe({**state, "total": None, "rate": 0.0, "note": ""}) == "50 rows"
    assert describe({**state, "total": None, "done": 0}) == ""


def test_plain_lines_carry_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    """A line of a log begins with the time of day; between the lines nothing is printed."""
    display = Plain()
    display.say("train: started")
    display.update(0, lambda: [("train", 1.0, None)])
    out = capsys.readouterr().out
    assert out[2] == out[5] == ":"
    assert out[9:] == "train: started\n"


def test_importing_progress_is_light() -> None:
    """The floor's progress loads neither tqdm nor rich before a terminal asks for it."""
    import subprocess

    code = "import sys, medsmith.progress; print([n for n in ('tqdm', 'rich', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_terminal_shows_steps_above_and_runs_below() -> None:
    """Lines that stay are printed as they are, markup characters included; the live part has every running step."""
    import io

    from rich.console import Console
    from rich.live import Live

    from medsmith.display import Terminal

    screen = io.StringIO()
    with Live(console=Console(file=screen, force_terminal=True, width=120), auto_refresh=False, transient=True) as live:
        display = Terminal(live, steps=7)
        display.say("train: started (setting a: '[red]' -> '[b]')")
        state = {"done": 5, "total": 10, "rate": 2.0, "note": "loss 1.5", "unit": "steps", "description": "[x] tuning"}
        display.update(3, lambda: [("train", 12.3, state), ("eval", 1.0, None)])
    text = screen.getvalue()
    assert "train: started (setting a: '[red]' -> '[b]')" in text
    for part in ("12 s", "[x] tuning", "5/10 steps, 2.0/s, 2 s left, loss 1.5", "eval", "starting", "3 of 7 steps"):
        assert part in text


def test_many_counts_are_cut_short() -> None:
    """A line of the log has the first counts and how many more there are."""
    assert count_words({"rows": 3, "dropped": 0}) == "3 rows, 0 dropped"
    assert count_words({"facts_checked": 2744}) == "2,744 facts checked"
    assert count_words(dict.fromkeys("abcd", 1), most=2) == "1 a, 1 b, and 2 more"
    assert count_words({}) == ""
