"""What a step is made of bears its identity: our code and files, and every byte of a folder that may be read."""

from __future__ import annotations

import ast
import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.contamination_training import training_files
from experts.corpus.reading import find_files
from medsmith import run, standing
from medsmith.blocklists import load_blocklists
from medsmith.code_identity import code_of
from medsmith.command import list_commands
from medsmith.digests import files_of
from medsmith.pipeline import Pipeline, Step
from medsmith.run import digest

CLONE = Path(__file__).parents[1]
NOT_READ = (
    "recipes/",
    "merge_recipes/",
    "experts/nano/",
    "mediflow/reviewing/",
    "eval/concepts",
    "py.typed",
    "launch/",
)
"""Inputs that are named by path, a model, pages for people, and files for a cluster: none makes a step another one."""
NAMES = st.sampled_from(["a.jsonl", "b.txt", "README.md", "x.log", "y.partial", "published.json", "notes.csv.gz"])
FOLDERS = st.sampled_from(["", "raw/", "log/", "checkpoints/", "raw/deep/", "data/raw/"])


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.dictionaries(st.tuples(FOLDERS, NAMES).map("".join), st.binary(min_size=1, max_size=9), min_size=1, max_size=5),
    st.data(),
)
def test_every_byte_of_a_folder_counts(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], data: st.DataObject
) -> None:
    """Whatever a folder that is no run holds, and wherever: one byte more, less or other is another digest."""
    folder = write(tmp_path_factory.mktemp("folder"), files)
    before = digest(folder)
    name = data.draw(st.sampled_from(sorted(files)))
    place, byte = data.draw(st.integers(0, len(files[name]) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(files[name])
    changed[place] ^= byte
    for content in (bytes(changed), files[name][:-1], files[name] + b"."):
        (folder / name).write_bytes(content)
        assert digest(folder) != before, name
    (folder / name).write_bytes(files[name])
    assert digest(folder) == before
    (folder / name).unlink()
    assert digest(folder) != before


def test_nothing_is_read_that_does_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the readers of a folder find is among the files of its digest, links included; what is not read is named."""
    rows = b"".join(b'{"q": "a question of a benchmark that has enough words, number %d"}\n' % n for n in range(3))
    elsewhere = write(tmp_path / "elsewhere", {"c.jsonl": rows})
    folder = write(
        tmp_path / "user", {"raw/a.jsonl": rows, "log/b.jsonl": rows.upper(), "README.md": b"x", "c.xml": b"x"}
    )
    (folder / "linked").symlink_to(elsewhere)
    (folder / "linked" / "up").symlink_to(folder)  # no end
    counted = set(files_of(folder))
    assert {path.name for path in counted} == {"a.jsonl", "b.jsonl", "c.jsonl", "README.md", "c.xml"}
    assert set(find_files(folder)) == {path for path in counted if path.suffix == ".jsonl"}
    assert caplog.messages == [f"{folder}: not read: README.md, c.xml"]
    assert set(training_files(folder)) == {path for path in counted if path.suffix != ".xml"}
    assert {text.place.partition(":")[0] for text in load_blocklists([folder], 8).texts} >= {
        "raw/a.jsonl",
        "log/b.jsonl",
    }


def test_of_a_run_the_journals_do_not_count_and_a_folder_below_it_is_a_part_of_it(tmp_path: Path) -> None:
    """raw/, log/ and the card of a run differ between equal runs; below, a folder called raw is one like any other."""
    made = write(
        tmp_path / "made", {"run.json": b"{}", "raw/a": b"1", "README.md": b"1", "data/raw/b": b"1", "x.log": b"1"}
    )
    before = digest(made), digest(tmp_path)
    write(made, {"raw/a": b"2", "README.md": b"2", "x.log": b"2", "log/c": b"2"})
    assert (digest(made), digest(tmp_path)) == before
    write(made, {"data/raw/b": b"2"})
    assert digest(made) != before[0] and digest(tmp_path) != before[1]


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A re-run stays cheap: what was digested before is not opened again."""
    folder = write(tmp_path / "user", {"raw/a.jsonl": b"1"})
    os.utime(folder / "raw" / "a.jsonl", (1, 1))
    monkeypatch.setattr("time.time_ns", lambda: 2**62)
    before = digest(folder)
    monkeypatch.setattr("hashlib.file_digest", None)
    assert digest(folder) == before


def test_code_is_followed_through_imports() -> None:
    """What a command imports, at once or inside functions, is part of its code; what it does not, is not."""
    sft, train = code_of("align.sft"), code_of("experts.train")
    assert {"align.sft", "align.prepare", "align.rows", "medsmith.masks", "medsmith.training_log"} <= sft.keys()
    assert "experts.sequences" in train and "experts.sequences" not in sft
    assert not any(name.startswith(("eval.", "mediflow.")) for name in [*sft, *train])
    assert "medsmith.openai_chat" not in sft and "medsmith.command" not in sft
    assert "eval.benchmarks.medec" in code_of("eval.run"), "modules that are found by listing a folder"


def test_code_is_read_whatever_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection that parses in the midst of our parsing, as another thread may, does not end a run."""
    write(tmp_path, {"collected/__init__.py": b"", "collected/work.py": b"x = [1, 2, 3]\n" * 200})
    monkeypatch.syspath_prepend(str(tmp_path))
    before = gc.get_threshold()

    def parse_too(phase: str, info: dict[str, int]) -> None:
        ast.parse("(1 + 2) * 3")

    gc.callbacks.append(parse_too)
    gc.set_threshold(1)
    try:
        assert "collected.work" in code_of("collected.work")
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(parse_too)


def test_every_file_of_ours_is_part_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts, task and document types, tables: each is in the identity of at least one command, a new one included."""
    monkeypatch.chdir(CLONE)
    commands = [name for name, _ in list_commands() if not name.startswith("benchmarks.")]
    counted = {name for command in commands for name in code_of(command)}
    stages = ("medsmith", "mediflow", "experts", "merge_recipes", "align", "eval")
    there = {
        file.relative_to(CLONE).as_posix()
        for stage in stages
        for file in (CLONE / stage).rglob("*.*")
        if file.suffix in (".yml", ".jinja", ".json", ".css", ".js", ".md")
    }
    assert len(there) > 100
    assert {name for name in there - counted if not any(part in name for part in NOT_READ)} == set()
    assert {"mediflow/prompts/generate.jinja", "mediflow/tasks/summarization.yml"} <= code_of(
        "mediflow.generate"
    ).keys()
    assert "mediflow/prompts/judge.jinja" in code_of("mediflow.judge")
    assert "experts/prompts/pit_summary.jinja" in code_of("experts.prepare")


STAGE = b"""\"\"\"A stage of the user's own.\"\"\"
from pathlib import Path
from medsmith import run
from medsmith.config import Config
from mine.words import GREETING
HERE = Path(__file__).parent

def main(config):
    with run.start(config, "mine.ask") as this:
        (this.folder / "said").write_text(GREETING + (HERE / "prompts" / "ask.jinja").read_text())
        return this.finish()
"""


def test_another_prompt_is_another_step_and_why_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of a prompt or of code nothing is up to date; comments, docstrings and layout change nothing."""
    files = {"mine/__init__.py": b"", "mine/ask.py": STAGE, "mine/words.py": b"GREETING = 'hello'\n"}
    write(tmp_path, files | {"mine/prompts/ask.jinja": b"Ask."})
    monkeypatch.syspath_prepend(str(tmp_path))
    step = Step("ask", tmp_path / "out", {"out": tmp_path / "out"}, (), 1, "mine.ask")
    pipeline = Pipeline("p", tmp_path / "p.yml", (), tmp_path, {"ask": step})
    step.command.main(step.config)
    assert standing.survey(pipeline)["ask"].state == "finished"
    write(tmp_path, {"mine/words.py": b'"""Words."""\n# Polite.\nGREETING = ("hello")\n'})
    assert run.is_current("mine.ask", step.config)
    for name, content, told in (
        ("mine/prompts/ask.jinja", b"Ask now.", "code: mine/prompts/ask.jinja"),
        ("mine/words.py", b"GREETING = 'hi'\n", "code: mine.words"),
    ):
        kept = (tmp_path / name).read_bytes()
        write(tmp_path, {name: content})
        assert not run.is_current("mine.ask", step.config)
        assert told in standing.explain(pipeline, "ask")[1]
        write(tmp_path, {name: kept})
    assert run.is_current("mine.ask", step.config)
