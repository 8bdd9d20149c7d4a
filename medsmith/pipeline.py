"""A pipeline: a YAML that lists steps; a step is a command, its recipe and its inputs.

    name: embedded
    out: out/embedded                  # every step writes <out>/<its name>
    seed: 0                            # given to each step that sets none
    vars: {data: null}                 # `medsmith run P data=/corpora`; null: must be given
    steps:
      simulate: {run: mediflow.simulate, recipe: mediflow/recipes/embedded.yml, with: {patients: 200}}
      train-{expert}:
        each: {expert: [pubmed, clinical]}     # one step a value (several keys: every combination; a list of
        run: experts.train                     # mappings: one step a mapping)
        recipe: experts/recipes/{expert}.yml
        with: {documents: "${simulate}/corpora/{expert}.jsonl"}       # laid over the recipe, key by key
        threads: 2                             # a number, or all (default 1)
      report: {run: eval.report, with: {runs: ["${train-*}"]}}

`${step}` is a step's folder, `${step}/file` something in it, `${data}` a variable (its type is kept where it stands
alone). `"${train-*}"` as an item of a list becomes one item for each earlier step of that name; a list item
`{each: …, key: …}` becomes one for each value. References are the dependencies; there is nothing else to declare.
"""

from __future__ import annotations

import fnmatch
import graphlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medsmith.command import Command, find_command
from medsmith.config import Block, Config, artefacts, assign, load, merge
from medsmith.errors import UserError, nearest
from medsmith.machine import cores
from medsmith.sizes import Sizes
from medsmith.yaml_files import parse_value, read_yaml

Each = dict[str, list[Any]] | list[dict[str, Any]]

REFERENCE = re.compile(r"\$\{([^{}]*)\}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class StepFile(Block):
    """One entry below `steps:`."""

    run: str = Field(description="the command, <folder>.<module>")
    recipe: str | None = Field(None, description="a YAML recipe of that command")
    with_: dict[str, Any] = Field({}, alias="with", description="settings laid over the recipe")
    each: Each | None = Field(None, description="values to make one step of each")
    threads: int | Literal["all"] = Field(1, description="threads the step may use; fixed, whatever else is running")


class PipelineFile(Block):
    """The YAML as it is written."""

    name: str | None = Field(None, description="default: the file's name")
    out: Path | None = Field(None, description="default: out/<name>")
    seed: int = 0
    vars: dict[str, Any] = {}
    engine: Literal["local"] = "local"
    sizes: Sizes | None = Field(None, description="how large its data will be, for `medsmith plan`")
    steps: dict[str, StepFile]


@dataclass(frozen=True)
class Step:
    """One step with every reference resolved to an absolute path."""

    name: str
    folder: Path
    values: dict[str, Any]
    needs: tuple[str, ...]
    threads: int
    run: str
    height: int = field(default=0, compare=False)
    """Steps on the longest way from here to an end: the higher, the earlier it should start."""

    @cached_property
    def command(self) -> Command[Any]:
        """The command, imported on first use."""
        return find_command(self.run)

    @cached_property
    def config(self) -> Config:
        """The settings, checked on first use."""
        try:
            config: Config = load(self.command.config, self.values)
        except UserError as error:
            raise UserError(f"step '{self.name}': {error}") from None
        return config


@dataclass(frozen=True)
class Pipeline:
    """Steps by name, each after those that it needs."""

    name: str
    file: Path
    arguments: tuple[str, ...]
    out: Path
    steps: dict[str, Step]
    sizes: Sizes | None = None

    def check(self) -> None:
        """Load every step's settings before anything runs.

        Raises:
            UserError: a wrong setting, or a reference that the step's identity would not notice.
        """
        for step in self.steps.values():
            inputs = artefacts(step.config).values()
            for need in step.needs:
                folder = self.steps[need].folder
                if not any(path == folder or folder in path.parents for path in inputs):
                    raise UserError(
                        f"step '{step.name}': ${{{need}}} stands in a field of {step.run} that is not a Path, so a "
                        "change of that step would go unnoticed; give it to a field of type Path"
                    )

    def select(self, patterns: Sequence[str]) -> Pipeline:
        """This pipeline with only the named steps (`*` allowed) and what they need."""
        wanted: set[str] = set()
        for pattern in patterns:
            matching = fnmatch.filter(self.steps, pattern)
            if not matching:
                raise UserError(f"no step '{pattern}' in {self.file}; {nearest(pattern, self.steps)}")
            wanted.update(matching)
        for name in reversed(self.steps):
            if name in wanted:
                wanted.update(self.steps[name].needs)
        kept = {name: step for name, step in self.steps.items() if name in wanted}
        return Pipeline(self.name, self.file, self.arguments, self.out, kept, self.sizes)


def left_out(file: Path, arguments: Sequence[str] = ()) -> list[str]:
    """The variables that must be given and are not."""
    given = {argument.partition("=")[0] for argument in arguments}
    return [name for name, value in load(PipelineFile, file).vars.items() if value is None and name not in given]


def load_pipeline(file: Path, arguments: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline and apply the command line's `variable=value`, `seed=`, `out=` and `step.key.sub=value`.

    Raises:
        UserError: a variable without value, an unknown step, variable or key, a cycle.
    """
    written = load(PipelineFile, file)
    expanded = dict(_expand(written))
    variables: dict[str, Any] = dict(written.vars)
    overrides: dict[str, list[str]] = {name: [] for name in expanded}
    own: dict[str, Any] = {"seed": written.seed, "out": written.out}
    for argument in arguments:
        _sort_argument(argument, own, variables, overrides)
    missing = [name for name, value in variables.items() if value is None]
    if missing:
        raise UserError(f"{file} needs a value for '{missing[0]}': add {missing[0]}=VALUE to the command")
    clash = sorted(set(variables) & set(expanded))
    if clash:
        raise UserError(f"{file}: '{clash[0]}' is both a variable and a step; rename one of them")
    name = written.name or file.stem
    out = Path(own["out"] or Path("out", name)).absolute()
    steps = {}
    for number, (step_name, step) in enumerate(expanded.items()):
        places = {other: out / other for other in expanded}
        scope = _Scope(step_name, variables, places, list(expanded)[:number])
        values = merge(read_yaml(Path(step.recipe)) if step.recipe else {}, scope.fill(step.with_))
        for override in overrides[step_name]:
            values = assign(values, override)
        values = {"seed": own["seed"], **values, "out": str(out / step_name)}
        threads = cores() if step.threads == "all" else min(step.threads, cores())
        steps[step_name] = Step(step_name, out / step_name, values, tuple(scope.needs), threads, step.run)
    return Pipeline(name, file, tuple(arguments), out, _in_order(file, steps), written.sizes)


def _sort_argument(
    argument: str, own: dict[str, Any], variables: dict[str, Any], overrides: dict[str, list[str]]
) -> None:
    """Put one `key=value` of the command line where it belongs."""
    key, equals, text = argument.partition("=")
    if not equals:
        raise UserError(f"'{argument}' is not of the form key=value")
    if key in variables or key in own:
        (variables if key in variables else own)[key] = parse_value(text)
        return
    # A step's name may hold dots: the longest one that fits.
    for cut in sorted((place.start() for place in re.finditer(r"\.", key)), reverse=True):
        matching = fnmatch.filter(overrides, key[:cut])
        for name in matching:
            overrides[name].append(f"{key[cut + 1 :]}={text}")
        if matching:
            return
    known = [*variables, *own, *overrides]
    wanted, dot, rest = key.partition(".")
    hint = nearest(wanted, known)
    raise UserError(f"'{argument}': no variable or step '{wanted}'; {hint}{' (' + rest + ' follows)' if dot else ''}")


def _expand(written: PipelineFile) -> Iterator[tuple[str, StepFile]]:
    """Every step with its `each` written out."""
    seen = set()
    for pattern, step in written.steps.items():
        for values in _combinations(step.each):
            name = str(_substitute(pattern, values))
            if not NAME.fullmatch(name):
                raise UserError(f"step '{name}': a name is letters, digits, '-', '_' and '.'; {{…}} needs an `each`")
            if name in seen:
                raise UserError(f"step '{name}' would be made twice; put every key of its `each` into its name")
            seen.add(name)
            fields = _substitute(step.model_dump(by_alias=True, exclude={"each"}), values)
            yield name, StepFile.model_validate(fields)


def _combinations(each: Each | None) -> list[dict[str, Any]]:
    """One mapping of values for each step (or list item) to make."""
    if each is None:
        return [{}]
    if isinstance(each, list):
        return each
    return [dict(zip(each, values, strict=True)) for values in itertools.product(*each.values())]


def _substitute(value: Any, each: Mapping[str, Any]) -> Any:
    """Replace {key} at any depth; a text that is nothing but {key} becomes the value itself, with its type."""
    if isinstance(value, dict):
        return {_substitute(key, each): _substitute(item, each) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, each) for item in value]
    if isinstance(value, str):
        for key, item in each.items():
            if value == f"{{{key}}}":
                return item
            value = str(item).join(re.split(rf"(?<!\$)\{{{re.escape(key)}\}}", value))
    return value


class _Scope:
    """What a step's references may mean; remembers in `needs` which steps they named."""

    def __init__(self, step: str, variables: Mapping[str, Any], places: Mapping[str, Path], earlier: list[str]) -> None:
        self.step = step
        self.variables = variables
        self.places = places
        self.earlier = earlier
        self.needs: dict[str, None] = {}

    def fill(self, value: Any) -> Any:
        """Replace every reference at any depth."""
        if isinstance(value, dict):
            return {self._text(key): self.fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [filled for item in value for filled in self._items(item)]
        return self._text(value)

    def _items(self, item: Any) -> Iterator[Any]:
        if isinstance(item, dict) and isinstance(item.get("each"), dict | list):
            rest = {key: inner for key, inner in item.items() if key != "each"}
            for values in _combinations(item["each"]):
                yield self.fill(_substitute(rest, values))
            return
        found = REFERENCE.match(item) if isinstance(item, str) else None
        if found is None or "*" not in found[1]:
            yield self.fill(item)
            return
        matching = fnmatch.filter(self.earlier, found[1])
        if not matching:
            raise UserError(f"step '{self.step}': '{item}' matches no earlier step; {nearest(found[1], self.earlier)}")
        for name in matching:
            yield self._text(f"${{{name}}}{item[found.end() :]}")

    def _text(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        whole = REFERENCE.fullmatch(value)
        return self._named(whole[1]) if whole else REFERENCE.sub(lambda found: str(self._named(found[1])), value)

    def _named(self, name: str) -> Any:
        if name in self.variables:
            return self.variables[name]
        if name in self.places and name != self.step:
            self.needs[name] = None
            return str(self.places[name])
        if "*" in name:
            raise UserError(f"step '{self.step}': '${{{name}}}' is several steps: it must stand alone as a list's item")
        known = [other for other in (*self.variables, *self.places) if other != self.step]
        raise UserError(f"step '{self.step}': '${{{name}}}' is no variable or other step; {nearest(name, known)}")


def _in_order(file: Path, steps: dict[str, Step]) -> dict[str, Step]:
    """The steps as written, but each after those it needs, and with their heights."""
    try:
        graphlib.TopologicalSorter({name: step.needs for name, step in steps.items()}).prepare()
    except graphlib.CycleError as error:
        raise UserError(f"{file}: the steps go in a circle: {' -> '.join(reversed(error.args[1]))}") from None
    order: list[str] = []
    while len(order) < len(steps):
        left = (name for name in steps if name not in order)
        order.append(next(name for name in left if set(steps[name].needs) <= set(order)))
    heights = dict.fromkeys(order, 1)
    for name in reversed(order):
        for need in steps[name].needs:
            heights[need] = max(heights[need], heights[name] + 1)
    return {name: replace(steps[name], height=heights[name]) for name in order}
