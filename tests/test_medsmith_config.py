from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, model_validator

from medsmith.config import Block, Config, ModelRef, artefacts, execution, identity, load, merge
from medsmith.errors import UserError


class Optimiser(Block):
    rate: float = 0.1
    steps: int = 10


class Source(Block):
    name: str
    data: Path | None = None
    optimiser: Optimiser = Optimiser()


class Settings(Config):
    data: Path = Path("corpus")
    model: ModelRef = "owner/name"
    mode: Literal["fast", "exact"] = "fast"
    optimiser: Optimiser = Optimiser()
    maybe: Optimiser | None = None
    sources: list[Source] = []
    by_name: dict[str, Source] = {}
    free: dict[str, Any] = {}
    device: str = execution("auto", "where")
    note: str = Field("", description="text")


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yml"
    path.write_text(text)
    return path


def test_layers_apply_in_order(tmp_path: Path) -> None:
    """Class default, then recipe, then override: the last one wins, and the others keep their place."""
    recipe = write(tmp_path, "out: o\noptimiser: {rate: 0.2, steps: 20}\n")
    config = load(Settings, recipe, ["optimiser.rate=0.3"])
    assert (config.optimiser.rate, config.optimiser.steps, config.mode) == (0.3, 20, "fast")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modell: x", "unknown key 'modell'; did you mean 'model'?"),
        ("optimiser: {rat: 1}", "unknown key 'optimiser.rat'; did you mean 'optimiser.rate'?"),
        ("maybe: {step: 1}", "unknown key 'maybe.step'; did you mean 'maybe.steps'?"),
        ("sources: [{name: a}, {nam: b}]", "unknown key 'sources.1.nam'; did you mean 'sources.1.name'?"),
        ("by_name: {x: {name: a, optimiser: {stepps: 1}}}", "did you mean 'by_name.x.optimiser.steps'?"),
        ("zzzzzzzz: 1", "known here: by_name, data,"),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path: Path, text: str, message: str) -> None:
    """A misspelt key fails at every depth, lists and mappings of blocks included, and says what to write."""
    with pytest.raises(UserError) as error:
        load(Settings, write(tmp_path, f"out: o\n{text}\n"))
    assert message in str(error.value)
    with pytest.raises(UserError, match=r"^the command line: unknown key 'optimiser.rat'"):
        load(Settings, write(tmp_path, "out: o\n"), ["optimiser.rat=1"])


def test_wrong_values_are_one_line_with_value_and_key(tmp_path: Path) -> None:
    """A missing value, a wrong type and a wrong choice name the key, the value and how to set it."""
    with pytest.raises(UserError, match=r"'out': Field required; set it in the recipe or as out=VALUE"):
        load(Settings)
    with pytest.raises(UserError, match=r"'optimiser.steps'.*got 'many'"):
        load(Settings, {"out": "o", "optimiser": {"steps": "many"}})
    with pytest.raises(UserError, match=r"'sources'.*got 'x'.*or as sources=\[VALUE, …\]"):
        load(Settings, {"out": "o"}, ["sources=x"])
    with pytest.raises(UserError, match=r"'mode'.*'fast' or 'exact'.*got 'slow'"):
        load(Settings, {"out": "o"}, ["mode=slow"])


class Lists(Block):
    """Not a recipe: a file that a recipe names."""

    names: dict[str, str | Path] = {}


class Range(Config):
    """Two settings that must go together."""

    low: int = 0
    high: int = 1
    data: dict[str, str | Path] = {}

    @model_validator(mode="after")
    def _checked(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low is {self.low}, high {self.high}")
        return self


def test_the_remedy_is_one_that_works() -> None:
    """No key of pydantic's own, no `=VALUE` without a key, and no setting for what stands in another file."""
    with pytest.raises(UserError, match=r"'data.x': .*got 'None'.*or as data.x=VALUE$"):
        load(Range, {"out": "o", "data": {"x": None}})
    with pytest.raises(UserError, match=r"^the settings: low is 3, high 1$"):
        load(Range, {"out": "o", "low": 3})
    with pytest.raises(UserError, match=r"'names.x': .*got '3'.*; mend it there$"):
        load(Lists, {"names": {"x": 3}})


def test_yaml_traps_are_closed(tmp_path: Path) -> None:
    """2e-5 is a number, a key written twice is refused, broken YAML names its line."""
    assert load(Settings, write(tmp_path, "out: o\nfree: {rate: 2e-5}")).free == {"rate": 2e-5}
    assert load(Settings, {"out": "o"}, ["free.rate=1e-3"]).free == {"rate": 0.001}
    assert load(Settings, {"out": "o"}, ["free.name=1e"]).free == {"name": "1e"}
    with pytest.raises(UserError, match=r"recipe.yml line 2: not valid YAML: 'out' is set twice"):
        load(Settings, write(tmp_path, "out: a\nout: b\n"))
    with pytest.raises(UserError, match=r"recipe.yml line 3: not valid YAML"):
        load(Settings, write(tmp_path, "out: o\nfree: [1\nmode: fast"))
    with pytest.raises(UserError, match="expected `key: value` lines, got a list"):
        load(Settings, write(tmp_path, "- a"))


def test_merge_keys_of_yaml_still_work(tmp_path: Path) -> None:
    """`<<: *anchor` is no key written twice."""
    text = "out: o\nfree: {a: &a {x: 1, y: 2}, b: {<<: *a, y: 3}}"
    assert load(Settings, write(tmp_path, text)).free["b"] == {"x": 1, "y": 3}


def test_json_numbers_survive(tmp_path: Path) -> None:
    """A .json recipe is read as JSON: what json.dump writes for 0.00002 comes back as that number."""
    path = tmp_path / "step.json"
    path.write_text('{"out": "o", "free": {"rate": 2e-05}}')
    assert load(Settings, path).free["rate"] == 2e-05


def test_overrides_reach_into_lists_and_do_not_touch_the_recipe() -> None:
    """`sources.1.name=z` changes that item, a place beyond the end is refused, the given mapping stays as it was."""
    recipe = {"out": "o", "sources": [{"name": "a"}, {"name": "b"}]}
    config = load(Settings, recipe, ["sources.1.name=z"])
    assert [source.name for source in config.sources] == ["a", "z"]
    assert recipe["sources"] == [{"name": "a"}, {"name": "b"}]
    with pytest.raises(UserError, match="'2' is not a place in a list of 2"):
        load(Settings, recipe, ["sources.2.name=z"])
    with pytest.raises(UserError, match="'mode' is not of the form key=value"):
        load(Settings, recipe, ["mode"])


def test_merge_is_deep_for_mappings_only() -> None:
    """Mappings merge key by key; a list is replaced."""
    assert merge({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}, "d": 4}) == {"a": {"b": 1, "c": [3]}, "d": 4}


def test_identity_holds_settings_but_neither_paths_nor_execution(tmp_path: Path) -> None:
    """Paths at any depth become inputs; device and out are left out; a hub id stays text, a folder becomes an input."""
    (tmp_path / "model").mkdir()
    config = load(
        Settings,
        {"out": "o", "sources": [{"name": "a", "data": "x.jsonl"}], "model": str(tmp_path / "model"), "device": "cuda"},
    )
    assert artefacts(config) == {
        "data": Path("corpus"),
        "model": tmp_path / "model",
        "sources.0.data": Path("x.jsonl"),
    }
    plain = identity(config)
    assert plain["data"] is None
    assert plain["model"] is None
    assert plain["sources"] == [{"name": "a", "data": None, "optimiser": {"rate": 0.1, "steps": 10}}]
    assert "device" not in plain
    assert "out" not in plain
    assert plain["seed"] == 0
    assert identity(load(Settings, {"out": "o"}))["model"] == "owner/name"
    assert "model" not in artefacts(load(Settings, {"out": "o"}))


def test_settings_are_frozen() -> None:
    """A loaded configuration cannot be changed."""
    with pytest.raises(ValueError, match="frozen"):
        load(Settings, {"out": "o"}).mode = "exact"  # type: ignore[misc]
