"""The documents cannot drift: tables are made from the tree (`make tables` writes them), and what is named exists."""

from __future__ import annotations

import importlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from medsmith.cli import VERBS
from medsmith.command import find_command, list_commands
from medsmith.yaml_files import read_yaml

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: str, rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; `head` names the columns, divided by bars."""
    lines = [f"| {head} |", "|" + " --- |" * (head.count("|") + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]) + "\n"


def commands() -> str:
    return table("command | what it makes", ((f"`{name}`", line) for name, line in list_commands()))


def tasks() -> str:
    from mediflow.taxonomy import load_taxonomy

    found = load_taxonomy().tasks
    return table("task type | what it asks", ((f"`{name}`", task.asks) for name, task in found.items()))


def documents() -> str:
    from mediflow.taxonomy import load_taxonomy

    taxonomy = load_taxonomy()
    inputs = Counter(name for name, _ in taxonomy.inputs())
    rows = ((f"`{name}`", inputs[name], ", ".join(one.sections)) for name, one in taxonomy.documents.items())
    return table("document type | inputs: the whole, and sections by themselves | sections", rows)


def experts() -> str:
    """Recipes of experts.train: those that name a method."""
    found = {path: read_yaml(path) for path in sorted((ROOT / "experts" / "recipes").glob("*.yml"))}
    rows = ((f"`{p.stem}`", f"`{r['base']}`", r["method"], remark(p)) for p, r in found.items() if "method" in r)
    return table("expert | base | method | what it is", rows)


def merges() -> str:
    found = {path: read_yaml(path) for path in sorted((ROOT / "merge_recipes").glob("*.yml"))}
    return table(
        "recipe | method | what it does", ((f"`{p.stem}`", r["merge_method"], remark(p)) for p, r in found.items())
    )


def benchmarks() -> str:
    from eval.benchmark import load_benchmark, names
    from eval.results import headline

    found = {name: load_benchmark(name) for name in names()}
    rows = ((f"`{name}`", headline(one, []), one.ACCESS, one.LICENCE, one.SOURCE) for name, one in found.items())
    return table("benchmark | headline metric | access | licence | where to get it", rows)


def pipelines() -> str:
    return table(
        "pipeline | what it is", ((f"`{p.stem}`", remark(p)) for p in sorted((ROOT / "pipelines").glob("*.yml")))
    )


def remark(path: Path) -> str:
    """The first sentence of a YAML's opening comment."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.lstrip("# ").rstrip())
    text = re.sub(r"(?<=\w)- (?=\w)", "-", " ".join(lines))  # "PMC-" at the end of a line
    return re.split(r"\.(?= [A-Z`]|$)", text, maxsplit=1)[0]


TABLES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "tasks": tasks,
    "documents": documents,
    "experts": experts,
    "merges": merges,
    "benchmarks": benchmarks,
    "pipelines": pipelines,
}


def filled(text: str) -> str:
    """The document with every table made anew."""
    return TABLE.sub(lambda place: place[1] + TABLES[place[2]]() + place[3], text)


@pytest.fixture(autouse=True)
def _in_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are listed from the clone's root."""
    monkeypatch.chdir(ROOT)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_tables_are_up_to_date() -> None:
    """README.md holds every generated table as the tree makes it now; else run `make tables`."""
    text = text_of("README.md")
    assert {place[2] for place in TABLE.finditer(text)} == set(TABLES)
    assert filled(text) == text, "run `make tables`"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_named_in_documents_exist(name: str) -> None:
    """Every path of the tree in backticks, a link or a picture is there (places under out/ are made by runs)."""
    text = text_of(name)
    roots = {path.name for path in ROOT.iterdir()} - {"out"}
    shown = [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"(?ms)^```\w*\n(.*?)^```", text)]
    quoted = [word for quote in shown for word in quote.split()]
    linked = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    named = {word.rstrip("/,;") for word in quoted if "/" in word and word.split("/")[0] in roots and "<" not in word}
    assert [word for word in sorted({*named, *linked}) if not list(ROOT.glob(word))] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_named_in_documents_exist(name: str) -> None:
    """Every `make TARGET`, `medsmith VERB` and `medsmith stage.command` that a document shows can be run."""
    text = "\n".join(
        [
            *re.findall(r"`([^`\n]+)`", text_of(name)),
            *re.findall(r"(?m)^(?: {4}|\$ )?(?:make|medsmith|python) .*$", text_of(name)),
        ]
    )
    targets = set(re.findall(r"(?m)^([a-z-]+):", text_of("Makefile")))
    assert set(re.findall(r"(?m)^\s*make ([a-z-]+)", text)) - targets == set()
    words = set(re.findall(r"(?m)^\s*medsmith ([\w.]+)", text)) | set(re.findall(r"python -m ([\w]+\.[\w.]+)", text))
    dotted = {word for word in words if "." in word}
    assert words - dotted - {*VERBS, "launch"} == set()
    for word in sorted(dotted):
        importlib.import_module(word)


def test_every_command_module_is_listed() -> None:
    """`medsmith --help` lists each stage module that has a Config and a main, with what it makes in one line."""
    stages = ("mediflow", "experts", "merge_recipes", "align", "eval")
    having = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for stage in stages
        for path in (ROOT / stage).rglob("*.py")
        if re.search(r"^class Config\(", path.read_text(), re.MULTILINE) and "\ndef main(" in path.read_text()
    }
    listed = dict(list_commands())
    assert having - set(listed) == set()
    assert [name for name, line in listed.items() if not 15 <= len(line) <= 140] == []
    assert find_command("mediflow.simulate").name == "mediflow.simulate"


def test_the_changelog_names_the_version() -> None:
    """The changelog has a section for changes to come, and the version of pyproject.toml is that of the code."""
    import medsmith

    assert "## [Unreleased]" in text_of("CHANGELOG.md")
    assert f'version = "{medsmith.__version__}"' in text_of("pyproject.toml")


if __name__ == "__main__":
    os.chdir(ROOT)
    Path("README.md").write_text(filled(text_of("README.md")), encoding="utf-8")
