"""The code and the files of ours that a command is made of: they bear its identity (medsmith/run.py).

From the command's module through its imports, at any depth; read, never imported. Comments, docstrings and layout do
not count. Beside modules count the files that a module names by its own place (`Path(__file__).parent / "prompts"`):
prompts, task types, tables, and modules that are found by listing a folder.
"""

from __future__ import annotations

import ast
import functools
import gc
import hashlib
import importlib.util
import json
import os
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medsmith.digests import file_digest, remembered

OURS = ("medsmith", "mediflow", "experts", "merge_recipes", "align", "eval")
ASIDE = ("medsmith.command",)
"""Reads the command line and prints: what it hands on is in the settings."""


def code_of(command: str) -> dict[str, str]:
    """The digest of every module by its name, and of every file by its place in the clone."""
    tops = {*OURS, command.partition(".")[0]}
    roots = {top: str(Path(spec.origin).parent) for top in tops if (spec := _spec(top)) and spec.origin}
    waiting, seen, found = [command], set(ASIDE), dict[str, str]()
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        path = _source(name, roots[top]) if name not in seen and top in roots else None
        seen.add(name)
        if path is None:
            continue
        parts = _parts(path)
        found[name] = parts["code"]
        waiting += parts["imports"]
        clone = path.parents[name.count(".") + (path.name == "__init__.py")]
        for file in _files(path, parts["files"]):
            place = file.relative_to(clone)
            if place.parts[0] not in tops:
                continue
            if file.suffix == ".py":
                waiting.append(".".join(place.with_suffix("").parts).removesuffix(".__init__"))
            else:
                found[place.as_posix()] = file_digest(file)[:16]
    return dict(sorted(found.items()))


def _spec(top: str) -> Any:
    try:
        return importlib.util.find_spec(top)
    except ValueError:  # a module that was put together by hand
        return None


@functools.cache
def _source(name: str, root: str) -> Path | None:
    """The file of one of our modules, whose package lies at `root`; None where the name is not one."""
    place = Path(root).joinpath(*name.split(".")[1:])
    files = [place / "__init__.py", *([place.with_suffix(".py")] if place != Path(root) else [])]
    return next((path for path in files if path.is_file()), None)


def _parts(path: Path) -> dict[str, Any]:
    """{code: digest, imports: names of modules, files: patterns from the module's folder}; kept by the file's bytes."""
    key = f"parts|{_reader()}|{file_digest(path)}"
    parts: dict[str, Any] = json.loads(remembered(key, lambda: json.dumps(_read_parts(path))))
    return parts


@functools.cache
def _reader() -> str:
    """What reads: this file, and a version of Python, which writes syntax trees in its own way."""
    return f"{file_digest(Path(__file__))}|{sys.version_info[:2]}"


def _read_parts(path: Path) -> dict[str, Any]:
    tree = _parse(path.read_text(encoding="utf-8"))
    imports, files = sorted(set(_imports(tree))), sorted({os.path.relpath(file, HERE.parent) for file in _named(tree)})
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = node.body[ast.get_docstring(node, clean=False) is not None :] or [ast.Pass()]
    return {"code": hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16], "imports": imports, "files": files}


def _parse(text: str) -> ast.Module:
    """The syntax tree. Python before 3.11.8 fails where a collection midway lets another thread parse (gh-106905)."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(text)
    finally:
        if collecting:
            gc.enable()


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from a import b`: b may be a module as well.
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


HERE = Path("/module/module/module/module.py")
"""Stands for the module while its expressions are read."""


def _named(tree: ast.AST) -> Iterator[Path]:
    """The paths, maybe with `*`, that a module builds upon `__file__`; of an expression the whole, not its parts."""
    places: dict[str, Path] = {}
    waiting = deque([tree])
    while waiting:
        node = waiting.popleft()
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and (value := _place(node.value, places))
        ):
            places[node.targets[0].id] = value
        place = _place(node, places) if isinstance(node, ast.BinOp | ast.Call) else None
        if place is not None and place not in (HERE, *HERE.parents):
            yield place
        else:
            waiting += ast.iter_child_nodes(node)


def _place(node: ast.AST, places: dict[str, Path]) -> Path | None:
    """What a path expression comes to; None for any other expression."""
    match node:
        case ast.Name(id="__file__"):
            return HERE
        case ast.Name(id=name):
            return places.get(name)
        case ast.Call(func=ast.Name(id="PackageLoader")):
            return HERE.parent / "templates" / "*.jinja"
        case ast.Call(func=ast.Name(id="Path"), args=[inner]):
            return _place(inner, places)
        case ast.Call(func=ast.Name(id="FileSystemLoader") | ast.Attribute(attr="FileSystemLoader"), args=[inner, *_]):
            base, part = _place(inner, places), "*.jinja"
        case ast.Call(func=ast.Attribute(value=value, attr="resolve" | "absolute")):
            return _place(value, places)
        case ast.Call(func=ast.Attribute(value=value, attr="with_name"), args=[named]):
            base, part = _place(ast.Attribute(value=value, attr="parent"), places), _pattern(named)
        case ast.Call(func=ast.Attribute(value=value, attr="glob" | "rglob"), args=[named]):
            base, part = _place(value, places), _pattern(named)
        case ast.Attribute(value=value, attr="parent"):
            base = _place(value, places)
            return base and base.parent
        case ast.Subscript(value=ast.Attribute(value=value, attr="parents"), slice=ast.Constant(value=int(number))):
            base = _place(value, places)
            return base and base.parents[number]
        case ast.BinOp(left=value, op=ast.Div(), right=named):
            base, part = _place(value, places), _pattern(named)
        case _:
            return None
    return base / part if base is not None and part else None


def _pattern(node: ast.AST) -> str:
    """A text, with `*` for what is filled in; empty for any other expression."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _files(module: Path, patterns: list[str]) -> Iterator[Path]:
    for pattern in patterns:
        up = pattern.count("../")
        for place in sorted(module.parents[up].glob(pattern[3 * up :])):
            yield from (file for file in (sorted(place.rglob("*")) if place.is_dir() else [place]) if _counts(file))


def _counts(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts
