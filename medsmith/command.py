"""What every command shares: finding it, its arguments and help, logging, one-line errors.

python -m align.dpo align/recipes/embedded.yml trainer.beta=0.2
medsmith align.dpo align/recipes/embedded.yml trainer.beta=0.2
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from medsmith import processes, resumption, run
from medsmith.code_identity import code_of
from medsmith.config import Config, identity, load
from medsmith.display import count_words
from medsmith.errors import UserError, nearest
from medsmith.explain import field_lines
from medsmith.machine import die_with_parent, install_hint

C = TypeVar("C", bound=Config)


class Command(NamedTuple, Generic[C]):
    """A command module `<folder>/<name>.py`: its settings and its one function."""

    name: str
    config: type[C]
    main: Callable[[C], Path]


def find_command(name: str) -> Command[Any]:
    """Import `<folder>.<name>` from the clone (the current folder) or an installed package.

    Raises:
        UserError: no such command (the nearest one is named), or it needs a package that is not installed.
    """
    if str(Path.cwd()) not in sys.path:
        # First, since others' packages have our folders' names (`align`, `experts`).
        sys.path.insert(0, str(Path.cwd()))
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"'{name}' is not a command name; it is <folder>.<module>, e.g. eval.run")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        module = None
    if module is None or not hasattr(module, "Config") or not hasattr(module, "main"):
        known = [command for command, _ in list_commands()]
        hint = nearest(name, known) if known else "commands are found in the current folder: change to the clone"
        raise UserError(f"there is no command '{name}'; {hint}")
    return Command(name, module.Config, module.main)


def list_commands() -> Iterator[tuple[str, str]]:
    """Every command of the clone with the first line of its docstring, found without importing anything."""
    for file in sorted([*Path.cwd().glob("*/*.py"), *Path.cwd().glob("*/*/*.py")]):
        names = file.relative_to(Path.cwd()).with_suffix("").parts
        if not (file.parent / "__init__.py").is_file() or not all(name.isidentifier() for name in names):
            continue
        source = file.read_text(encoding="utf-8")
        if "\ndef main(" in source and "\nclass Config(" in source:
            lines = (ast.get_docstring(ast.parse(source)) or "").splitlines()
            yield ".".join(names), lines[0] if lines else ""


def run_command(main: Callable[[C], Path], cls: type[C], arguments: Sequence[str] | None = None) -> None:
    """Parse `[recipe.yml] [key=value …]`, run `main`, print the folder it finished; exit 2 on a UserError."""
    module = sys.modules[main.__module__]
    name = getattr(module.__spec__, "name", None) or main.__module__
    guard(lambda: _run(Command(name, cls, main), module.__doc__ or "", arguments))


def _run(command: Command[C], description: str, arguments: Sequence[str] | None) -> None:
    # What starts several processes (torchrun) leaves them running when it is killed.
    die_with_parent(os.getppid() if processes.count() > 1 else None)
    if threading.current_thread() is threading.main_thread():
        # So that a gentle stop cleans up as Ctrl-C does; also where the shell had switched Ctrl-C off for us.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, as_ctrl_c)
    given = _parser(command, description).parse_intermixed_args(arguments)
    recipe, settings = _read_words([given.recipe, *given.override] if given.recipe else [], command.config.positional)
    level = logging.INFO if processes.is_main() else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every single request
    config = load(command.config, recipe, settings)
    if getattr(given, "plan", False):
        print(_planner(command)(config))
        return
    if given.resume:
        os.environ[resumption.ACCEPT] = "1"
    if given.again and processes.is_main() and not run.is_held(config.out):
        resumption.discard(config.out, command.name)
    if not given.again and run.is_current(command.name, config):
        logging.getLogger(command.name).info("up to date, nothing to do (--again makes it anew)")
        _answer(config.out)
    else:
        _tell_replaced(command.name, config)
        made = command.main(config)
        record = run.read_record(made)
        if record is not None and record["counts"]:
            # Not on standard output, which is the folder alone for whoever reads it into a variable.
            logging.getLogger(command.name).info("finished: %s", count_words(record["counts"]))
        _answer(made)


def _tell_replaced(name: str, config: Config) -> None:
    """Say that a finished folder is made anew, and for which settings; what it held may have taken days."""
    record = run.read_record(config.out)
    if record is None or record["command"] != name or not processes.is_main():
        return
    told = resumption.differences(record["identity"]["settings"], identity(config))[: resumption.SHOWN]
    code = resumption.code_differences(record["identity"].get("code", {}), code_of(name))
    why = "; ".join([*told, code] if code else told) or "its settings are the same"
    logging.getLogger(name).warning("%s was finished and is made anew (%s)", config.out, why)


def as_ctrl_c(number: int, frame: object) -> None:
    """Hand a signal on as Ctrl-C, to whoever listens to that now: an event loop ends its tasks one by one."""
    signal.raise_signal(signal.SIGINT)


def _answer(folder: Path) -> None:
    """Standard output is the folder, once, whatever number of processes made it."""
    if processes.is_main():
        print(folder)


def _read_words(words: list[str], positional: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The recipe, where the first word is one, and the settings: words without `=` give those in `positional`."""
    recipe = None
    if words and "=" not in words[0] and (not positional or Path(words[0]).suffix in (".yml", ".yaml", ".json")):
        recipe, words = Path(words[0]), words[1:]
    given = []
    for name in positional:
        if words and "=" not in words[0]:
            given.append(f"{name}={json.dumps(words[0])}")
            words = words[1:]
    return recipe, [*given, *words]


def _parser(command: Command[C], description: str) -> argparse.ArgumentParser:
    fields = "\n".join(field_lines(command.config))
    words = " ".join(command.config.positional).upper()
    first = f"[recipe.yml | {words}]" if words else "[recipe.yml]"
    parser = argparse.ArgumentParser(
        prog=f"medsmith {command.name}",
        usage=f"medsmith {command.name} {first} [key=value …]",
        description=description.strip(),
        epilog=f"settings (recipe first, then key=value; keys below another with dots: block.key=value):\n{fields}\n\n"
        f"example:\n  medsmith {command.name} recipe.yml out=out/{command.name.replace('.', '/')} seed=1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="?", help="a YAML recipe (optional)")
    parser.add_argument("override", nargs="*", help="key.sub=value, applied after the recipe; values are YAML")
    parser.add_argument("--again", action="store_true", help="make it anew even where it is up to date or half done")
    text = "go on from a checkpoint although code or libraries have changed since"
    parser.add_argument("--resume", action="store_true", help=text)
    if _planner(command):
        parser.add_argument("--plan", action="store_true", help="only say what it will take; make nothing")
    return parser


def _planner(command: Command[C]) -> Any:
    """The function `plan(config) -> str` of a command's module, or None where it has none."""
    return getattr(sys.modules[command.main.__module__], "plan", None)


def guard(work: Callable[[], int | None]) -> None:
    """Do the work and exit with its code: 2 and one line for a user's mistake, 130 when interrupted.

    An import that fails for a package that is not installed is a user's mistake with the install command as remedy.
    """
    try:
        code = work()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or (Path.cwd() / missing).is_dir() or missing == "medsmith":
            raise
        print(f"error: the package '{missing}' is needed here; {install_hint(missing)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    if code:
        sys.exit(code)
