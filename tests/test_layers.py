"""The arrows between the rooms: tests, benchmarks, pipelines → stage → medsmith → third parties, never sideways."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOOR = "medsmith"
STAGES = ("mediflow", "experts", "merge_recipes", "align", "eval")
OUTER = ("tests", "benchmarks", "pipelines")
HEAVY = {
    "accelerate", "datasets", "duckdb", "huggingface_hub", "matplotlib", "mergekit", "numba", "openai", "optuna",
    "pandas", "peft", "polars", "ray", "scipy", "sklearn", "tokenizers", "torch", "transformers", "trl", "vllm",
}  # fmt: skip
MAY_IMPORT_HEAVY = {
    "medsmith/models.py", "medsmith/likelihood.py", "medsmith/training.py",
    "merge_recipes/blocks.py", "merge_recipes/kernels.py", "merge_recipes/arithmetic_torch.py",
}  # fmt: skip


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name under which a module is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def waits(node: ast.AST) -> bool:
    """Whether importing a module leaves this part of it alone: bodies of functions, and what only type checkers see."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def imports(tree: ast.AST, at_run: bool = True) -> Iterator[tuple[str, int]]:
    """Every imported dotted name with its line; with at_run=False only what importing the module itself executes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the whole name instead of a relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif at_run or not waits(node):
            yield from imports(node, at_run)


def imports_of(path: Path, at_run: bool = True) -> list[tuple[str, int]]:
    return list(imports(ast.parse(path.read_text(encoding="utf-8")), at_run))


def test_the_walk_sees_imports_inside_functions_and_can_leave_them_out() -> None:
    """A planted module: the nested import is found, and is not among those that importing the module executes."""
    tree = ast.parse(
        "import os\nif TYPE_CHECKING:\n    import trl\n"
        "class A:\n    import json\n    def f(self):\n        import torch"
    )
    assert [name for name, _ in imports(tree)] == ["os", "trl", "json", "torch"]
    assert [name for name, _ in imports(tree, at_run=False)] == ["os", "json"]


@pytest.mark.parametrize("folder", (FLOOR, *STAGES))
def test_imports_point_down(folder: str) -> None:
    """The floor imports no stage, a stage imports only itself and the floor, and nobody imports tests or benchmarks."""
    found = modules(folder)
    assert len(found) > 1, f"{folder} holds no module"
    allowed = {FLOOR, folder}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in found
        for name, line in imports_of(path)
        if name.split(".")[0] in {FLOOR, *STAGES, *OUTER} - allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", (FLOOR, *STAGES))
def test_every_package_says_what_it_is(folder: str) -> None:
    """Each folder has an __init__.py with a docstring; without one an installed `align` would win over ours."""
    folders = {path.parent for path in modules(folder)}
    silent = [
        str(place.relative_to(ROOT))
        for place in sorted(folders)
        if not (place / "__init__.py").is_file()
        or not ast.get_docstring(ast.parse((place / "__init__.py").read_text()))
    ]
    assert silent == []


def test_tests_are_flat() -> None:
    """tests/ has no packages: a tests/eval/__init__.py would make `import eval` find the tests."""
    assert [str(path) for path in (ROOT / "tests").rglob("__init__.py")] == []


@pytest.mark.parametrize("folder", (FLOOR, *STAGES))
def test_heavy_libraries_wait_until_they_are_used(folder: str) -> None:
    """Importing a module executes no heavy import; only modules about models and the arithmetic of merging may."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(folder)
        if str(path.relative_to(ROOT)) not in MAY_IMPORT_HEAVY
        for name, line in imports_of(path, at_run=False)
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []


def loaded_by(names: list[str]) -> dict[str, list[str]]:
    """The heavy libraries that are loaded after importing each of `names`, in a fresh interpreter."""
    code = (
        "import importlib, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[2].split(','):\n"
        "    importlib.import_module(name)\n"
        "    found[name] = sorted(set(sys.argv[1].split(',')) & set(sys.modules))\n"
        "print(json.dumps(found))\n"
    )
    command = [sys.executable, "-c", code, ",".join(sorted(HEAVY)), ",".join(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_every_command_shows_its_help_without_heavy_libraries() -> None:
    """Importing any module with a Config, and the pure ones by name, loads no torch and none of its kind."""
    pure = ["medsmith.config", "medsmith.records", "medsmith.run", "medsmith.cli", "medsmith.pipeline"]
    pure += ["mediflow.taxonomy", "eval.scorers"]
    commands = [
        name_of(path) for path in modules(*STAGES) if re.search(r"^class Config\(", path.read_text(), re.MULTILINE)
    ]
    assert len(commands) >= 14, f"only {len(commands)} commands were found: {commands}"
    heavy = {name: libraries for name, libraries in loaded_by(sorted({*pure, *commands})).items() if libraries}
    assert heavy == {}, f"the first module listed loads them: {heavy}"


def test_every_library_that_we_import_is_declared() -> None:
    """Every import is a dependency or in an extra; what the wheel imports at once is a dependency."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {distribution(line) for line in project["dependencies"]}
    extras = {distribution(line) for lines in project["optional-dependencies"].values() for line in lines}
    owners = packages_distributions()
    undeclared, not_base = set(), set()
    for path in modules(FLOOR, *STAGES):
        where = str(path.relative_to(ROOT))
        at_import = {name.split(".")[0] for name, _ in imports_of(path, at_run=False)}
        for top in {name.split(".")[0] for name, _ in imports_of(path)} - sys.stdlib_module_names - {FLOOR, *STAGES}:
            names = {distribution(owner) for owner in owners.get(top, [top])}
            if not names & (base | extras):
                undeclared.add(f"{where} imports {top}")
            elif top in at_import and where.startswith(("medsmith/", "mediflow/")) and where not in MAY_IMPORT_HEAVY:
                not_base |= set() if names & base else {f"{where} imports {top}"}
    assert undeclared == set()
    assert not_base == set()


def distribution(requirement: str) -> str:
    """The normalised name in a requirement line."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]).lower()
