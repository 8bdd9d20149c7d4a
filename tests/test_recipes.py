"""Every YAML in the tree loads into what reads it; a file that nobody here checks is an error of its own."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from medsmith.command import find_command, list_commands
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.pipeline import Pipeline, load_pipeline
from medsmith.yaml_files import read_yaml

ROOT = Path(__file__).parent.parent
MADE = {"out", "build", "dist"}
SEARCHES = {"merge_recipes/searches": "merge_recipes.search"}


@cache
def files() -> dict[str, str]:
    """Every YAML of ours with the kind of reader that its place calls for."""
    found = {}
    for path in sorted([*ROOT.rglob("*.yml"), *ROOT.rglob("*.yaml")]):
        name = path.relative_to(ROOT)
        if name.parts[0] not in MADE and not any(part.startswith(".") for part in name.parts):
            found[name.as_posix()] = kind_of(name)
    return found


def kind_of(name: Path) -> str:
    folder = name.parent.as_posix()
    if folder in {
        "mediflow/tasks",
        "mediflow/documents",
        "mediflow/validation_topics",
        "pipelines",
        "merge_recipes",
        "eval/suites",
        "eval/clue/prompts",
        "experts/corpus",
        "medsmith/templates/launch",  # read by accelerate's own loader in test_medsmith_launch.py
    }:
        return folder
    if folder == "merge_recipes/real":  # the recipes of pipelines/real.yml, for its three experts
        return "merge_recipes"
    if folder in {
        "medsmith",
        "mediflow/pairing",
        "mediflow/vocabulary",
        "mediflow/clinic",
        "mediflow/validation",
        "benchmarks",
    }:
        return "data"
    return "command" if folder in SEARCHES or "recipes" in name.parts[1:-1] else "unknown"


def of_kind(kind: str) -> list[str]:
    return [name for name, found in files().items() if found == kind]


@cache
def pipeline(name: str) -> Pipeline:
    """A pipeline as `medsmith run` loads it; a variable that the user must give is a path that is not there."""
    wanted = [f"{key}=/not/there" for key, value in read_yaml(ROOT / name).get("vars", {}).items() if value is None]
    return load_pipeline(ROOT / name, wanted)


@pytest.fixture(autouse=True)
def _in_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are named from the clone's root, as on the command line."""
    monkeypatch.chdir(ROOT)


def test_every_kind_was_found() -> None:
    """The walk finds recipes of every kind, in every stage, and none that no test below reads."""
    assert of_kind("unknown") == []
    counts = Counter(files().values())
    least = {"mediflow/tasks": 6, "mediflow/documents": 6, "merge_recipes": 15, "pipelines": 2, "eval/suites": 1}
    assert {kind: counts[kind] for kind in least if counts[kind] < least[kind]} == {}
    stages = Counter(name.split("/")[0] for name in of_kind("command"))
    assert {stage for stage in ("mediflow", "experts", "align") if not stages[stage]} == set()


@pytest.mark.parametrize("name", of_kind("pipelines"))
def test_pipelines_load(name: str) -> None:
    """Each step's recipe, with what the pipeline lays over it, is a whole and valid configuration of its command."""
    loaded = pipeline(name)
    loaded.check()
    assert len(loaded.steps) >= 2


@pytest.mark.parametrize("name", of_kind("command"))
def test_command_recipes_load(name: str) -> None:
    """A recipe has only keys and values that its command knows; inputs may be left to the pipeline that uses it."""
    commands = commands_of(name)
    assert commands, f"no pipeline uses {name}, and no command's name is part of its name"
    for command in commands:
        assert complaints(find_command(command).config, read_yaml(ROOT / name)) == []


def commands_of(name: str) -> set[str]:
    """The commands that read a recipe: those of the pipelines' steps, and the one that its name has in it."""
    steps = [step for file in of_kind("pipelines") for step in read_yaml(ROOT / file)["steps"].values()]
    users = {step["run"] for step in steps if name in spelled(step.get("recipe", ""), step.get("each", {}))}
    stage, *inner, file = name.split("/")
    place = "/".join([stage, *inner])
    parts = Path(file).stem.split("_")
    named = {"_".join(parts[first:last]) for last in range(1, len(parts) + 1) for first in range(last)}
    words = {SEARCHES[place]} if place in SEARCHES else {f"{stage}.{name}" for name in named}
    return users | (words & {command for command, _ in list_commands()})


def spelled(recipe: str, each: dict[str, list[str]] | list[dict[str, str]]) -> set[str]:
    """Every recipe that `experts/recipes/{expert}.yml` stands for."""
    places = re.findall(r"\{(\w+)\}", recipe)
    choices = [each[place] if isinstance(each, dict) else [one[place] for one in each] for place in places]
    return {recipe.format(**dict(zip(places, chosen, strict=True))) for chosen in itertools.product(*choices)}


def complaints(cls: type[BaseModel], values: dict[str, Any]) -> list[str]:
    """What is wrong with a part of a configuration, missing keys apart."""
    try:
        load(cls, values)
    except UserError as error:
        if "unknown key" in str(error):
            return [str(error)]
    try:
        cls.model_validate(values)
    except ValidationError as error:
        return [str(one) for one in error.errors() if one["type"] != "missing"]
    return []


def test_a_wrong_key_or_value_is_complained_about() -> None:
    """Planted recipes: a misspelt key and a wrong type are found, a missing input is not."""
    cls = find_command("mediflow.simulate").config
    assert complaints(cls, {"patients": 3}) == []
    assert len(complaints(cls, {"patiens": 3})) == 1
    assert len(complaints(cls, {"patients": "many"})) == 1


@pytest.mark.parametrize("name", of_kind("merge_recipes"))
def test_merge_recipes_load_strictly(name: str) -> None:
    """Each merge recipe is what mergekit's own schema takes, with nothing that mergekit would silently ignore."""
    from mergekit.config import MergeConfiguration

    from merge_recipes.recipe import load_recipe

    recipe = load_recipe(ROOT / name)
    assert MergeConfiguration.model_validate(recipe).merge_method == recipe["merge_method"]


@pytest.mark.parametrize("name", [name for name in of_kind("command") if Path(name).parent.as_posix() in SEARCHES])
def test_searches_try_numbers_that_their_recipe_has(name: str) -> None:
    """Every edge of a search's space, put into its place, gives a recipe that is valid too."""
    from merge_recipes.recipe import load_recipe
    from merge_recipes.search import Config
    from merge_recipes.space import axes_of, check_corners

    given = {"out": "x", "models": {"base": "y/z"}, "validation": ["v.jsonl"]}
    settings = load(Config, read_yaml(ROOT / name) | given)
    recipe = load_recipe(settings.recipe)
    axes = axes_of(recipe, settings.space)
    assert len(axes) >= 1
    check_corners(recipe, settings.space, axes, name)


def test_the_taxonomy_holds_every_task_and_document_file() -> None:
    """The folders are the taxonomy: no file is left out, and each file's name is the name."""
    from mediflow.taxonomy import load_taxonomy

    taxonomy = load_taxonomy()
    assert list(taxonomy.tasks) == [Path(name).stem for name in of_kind("mediflow/tasks")]
    assert list(taxonomy.documents) == [Path(name).stem for name in of_kind("mediflow/documents")]


def test_every_topic_of_validation_sets_loads() -> None:
    """The folder is the list of topics: no file is left out, and each file's name is the name."""
    from mediflow.validation.topics import load_topics

    assert list(load_topics()) == [Path(name).stem for name in of_kind("mediflow/validation_topics")]


def test_every_known_corpus_loads() -> None:
    """The folder is the list of known corpora: no file is left out, and each says its licence and its traps."""
    from experts.corpus.known import known_names, load_known

    assert known_names() == [Path(name).stem for name in of_kind("experts/corpus")]
    assert [
        name for name in known_names() if not load_known(name).traps or not load_known(name).published.license
    ] == []


@pytest.mark.parametrize("name", of_kind("data"))
def test_data_files_are_used(name: str) -> None:
    """A YAML beside modules is read by one of them."""
    place = ROOT / name
    assert [path.name for path in place.parent.glob("*.py") if f'"{place.name}"' in path.read_text()] != []


@pytest.mark.parametrize("name", of_kind("eval/clue/prompts"))
def test_a_published_prompt_belongs_to_a_benchmark(name: str) -> None:
    """It is named like the benchmark that asks it, under the protocol clue."""
    from eval.benchmark import load_benchmark

    assert {"wording", "system"} <= read_yaml(ROOT / name).keys()
    assert load_benchmark(Path(name).stem, "clue").VERSION >= 1


@pytest.mark.parametrize("name", of_kind("eval/suites"))
def test_suites_load(name: str) -> None:
    """Each suite names benchmarks that exist."""
    from eval.suite import load_suite

    given = dict.fromkeys(read_yaml(ROOT / name)["benchmarks"], Path("data"))
    assert len(load_suite(ROOT / name, given).benchmarks) >= 1
