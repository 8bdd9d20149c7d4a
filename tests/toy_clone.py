"""A clone in miniature for tests of the runner: a stage folder `toy` with three small commands."""

from __future__ import annotations

import json
from pathlib import Path

HEAD = '''"""{doc}"""
import json, os, time
from pathlib import Path
from typing import ClassVar
from pydantic import Field
from medsmith import run
from medsmith.command import run_command
from medsmith.config import Config as Base, execution
from medsmith.progress import track

def trace(config, event):
    with open("trace.jsonl", "a") as lines:
        lines.write(json.dumps([config.out.name, event, time.time()]) + "\\n")
'''

MAKE = (
    HEAD.format(doc="Write a text.")
    + """
class Config(Base):
    libraries: ClassVar = ("pydantic",)
    text: str = Field("", description="what is written")
    seconds: float = execution(0.0, "how long it takes")
    fail: str = execution("", "how it goes wrong")

def main(config: Config) -> Path:
    with run.start(config, "toy.make") as this:
        trace(config, "start")
        time.sleep(config.seconds)
        if config.fail == "bug":
            raise ValueError("a bug")
        if config.fail == "user":
            from medsmith.errors import UserError
            raise UserError("the text is bad; write another")
        if config.fail == "edit":
            code = Path("toy/join.py")
            more = '    more: int = Field(1, description="new")\\n    letters:'
            code.write_text(code.read_text().replace("    letters:", more))
        if config.fail == "package":
            import not_installed_anywhere
        (config.out / "text.txt").write_text(config.text)
        (config.out / "log").mkdir(exist_ok=True)
        (config.out / "log" / "threads.txt").write_text(os.environ.get("OMP_NUM_THREADS", ""))
        trace(config, "end")
        return this.finish(rows=1)

if __name__ == "__main__":
    run_command(main, Config)
"""
)

JOIN = (
    HEAD.format(doc="Put texts together, in capitals, as many letters as asked.")
    + """
class Config(Base):
    inputs: list[Path] = Field(description="folders of toy.make, or files")
    letters: int = Field(100, description="how many letters are kept")
    label: str = Field("", description="a field that is no input")

def main(config: Config) -> Path:
    with run.start(config, "toy.join") as this:
        trace(config, "start")
        texts = [(path / "text.txt" if path.is_dir() else path).read_text() for path in config.inputs]
        (config.out / "text.txt").write_text("".join(texts).upper()[: config.letters])
        return this.finish(rows=len(texts))

if __name__ == "__main__":
    run_command(main, Config)
"""
)

COUNT = (
    HEAD.format(doc="Do rows one by one, each journaled.")
    + """
class Config(Base):
    rows: int = Field(description="how many rows")
    seconds: float = execution(0.0, "for each row")

def main(config: Config) -> Path:
    with run.start(config, "toy.count") as this:
        trace(config, "resume" if this.resumed else "start")
        journal = config.out / "raw" / "rows.txt"
        journal.parent.mkdir(exist_ok=True)
        done = len(journal.read_text().splitlines()) if journal.exists() else 0
        with journal.open("a") as lines:
            for row in track(range(done, config.rows), "counting"):
                lines.write(f"{row}\\n")
                lines.flush()
                trace(config, "row")
                time.sleep(config.seconds)
        return this.finish(rows=config.rows)

if __name__ == "__main__":
    run_command(main, Config)
"""
)


def make_clone(folder: Path) -> None:
    """Write the stage folder `toy`."""
    (folder / "toy").mkdir()
    (folder / "toy" / "__init__.py").write_text('"""A toy stage."""\n')
    for name, text in (("make", MAKE), ("join", JOIN), ("count", COUNT)):
        (folder / "toy" / f"{name}.py").write_text(text)


def events(folder: Path) -> list[tuple[str, str, float]]:
    """What the toy commands did: (step, event, time), in order."""
    trace = folder / "trace.jsonl"
    return [tuple(json.loads(line)) for line in trace.read_text().splitlines()] if trace.exists() else []


def started(folder: Path) -> list[str]:
    """The steps that were started, in order."""
    return [step for step, event, _ in events(folder) if event in ("start", "resume")]
