"""Reading pipelines: references, `each`, arguments. Running them is in test_medsmith_runner.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from medsmith import machine
from medsmith.errors import UserError
from medsmith.pipeline import Pipeline, load_pipeline
from tests.toy_clone import make_clone


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a clone with the stage `toy`."""
    make_clone(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def read(text: str, *arguments: str) -> Pipeline:
    Path("p.yml").write_text(text)
    return load_pipeline(Path("p.yml"), arguments)


def values(pipeline: Pipeline, name: str) -> dict[str, Any]:
    return {key: value for key, value in pipeline.steps[name].values.items() if key not in ("seed", "out")}


CHAIN = """
name: chain
vars: {data: /corpora, letters: 3}
steps:
  a: {run: toy.make, with: {text: a}}
  b: {run: toy.make, with: {text: b}, threads: 1}
  ab: {run: toy.join, with: {inputs: ["${a}", "${b}/text.txt"], letters: "${letters}"}}
"""


def test_references_become_places_and_needs(clone: Path) -> None:
    """${step} is its folder, ${step}/file a file in it, a variable keeps its type; the needs follow from them."""
    pipeline = read(CHAIN)
    out = clone / "out" / "chain"
    assert values(pipeline, "ab") == {"inputs": [f"{out}/a", f"{out}/b/text.txt"], "letters": 3}
    assert pipeline.steps["ab"].needs == ("a", "b")
    assert pipeline.steps["ab"].folder == out / "ab"
    assert [(step.name, step.height) for step in pipeline.steps.values()] == [("a", 2), ("b", 2), ("ab", 1)]
    pipeline.check()


def test_arguments_set_variables_seed_out_and_settings(clone: Path) -> None:
    """data=…, seed=…, out=… and step.key=value go where they belong, with types; a pattern reaches several steps."""
    pipeline = read(CHAIN, "letters=5", "seed=7", "out=elsewhere", "ab.label=x", "?.text=z", "b.seed=9")
    assert values(pipeline, "ab")["letters"] == 5
    assert values(pipeline, "ab")["label"] == "x"
    assert values(pipeline, "a")["text"] == values(pipeline, "b")["text"] == "z"
    assert [step.config.seed for step in pipeline.steps.values()] == [7, 9, 7]
    assert pipeline.out == clone / "elsewhere"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("lettres=5", "no variable or step 'lettres'; did you mean 'letters'?"),
        ("abc.label=5", "no variable or step 'abc'; did you mean 'ab'?"),
        ("ab", "'ab' is not of the form key=value"),
    ],
)
def test_wrong_arguments_name_the_nearest(argument: str, message: str) -> None:
    """An argument that fits nothing is refused and says what was near."""
    with pytest.raises(UserError) as error:
        read(CHAIN, argument)
    assert message in str(error.value)


def test_a_wrong_setting_names_its_step() -> None:
    """An unknown key below a step names the step and the nearest key, before anything runs."""
    with pytest.raises(UserError, match=r"step 'ab': the settings: unknown key 'leters'; did you mean 'letters'\?"):
        read(CHAIN, "ab.leters=5").check()


def test_each_makes_a_step_a_value() -> None:
    """{expert} is replaced in name, recipe and settings, ${…-{expert}} included; alone it keeps its type."""
    Path("pubmed.yml").write_text("label: from recipe\nletters: 1\n")
    Path("clinical.yml").write_text("label: from recipe\n")
    pipeline = read("""
steps:
  make-{expert}: {each: {expert: [pubmed, clinical]}, run: toy.make, with: {text: "the {expert} text"}}
  join-{expert}-{n}:
    each: {expert: [pubmed, clinical], n: [0.5, 20]}
    run: toy.join
    recipe: "{expert}.yml"
    with: {inputs: ["${make-{expert}}"], letters: "{n}"}
""")
    assert list(pipeline.steps) == [
        *("make-pubmed", "make-clinical"),
        *("join-pubmed-0.5", "join-pubmed-20", "join-clinical-0.5", "join-clinical-20"),
    ]
    assert values(pipeline, "make-clinical") == {"text": "the clinical text"}
    assert pipeline.steps["join-pubmed-20"].needs == ("make-pubmed",)
    assert values(pipeline, "join-pubmed-20")["letters"] == 20
    assert values(pipeline, "join-pubmed-0.5")["letters"] == 0.5
    assert values(pipeline, "join-pubmed-20")["label"] == "from recipe"
    assert values(read(Path("p.yml").read_text(), "join-pubmed-0.5.letters=7"), "join-pubmed-0.5")["letters"] == 7


def test_each_of_mappings_pairs_values() -> None:
    """A list of mappings makes one step each, not every combination."""
    pipeline = read("""
steps:
  make-{name}: {each: [{name: x, n: 1}, {name: y, n: 2}], run: toy.make, with: {seed: "{n}"}}
""")
    assert {name: step.config.seed for name, step in pipeline.steps.items()} == {"make-x": 1, "make-y": 2}


def test_patterns_in_lists_take_all_earlier_steps(clone: Path) -> None:
    """A starred reference is every step above that fits, a file below it one of each; `each` makes several items."""
    pipeline = read("""
steps:
  make-{n}: {each: {n: [1, 2]}, run: toy.make}
  other: {run: toy.make}
  all: {run: toy.join, with: {inputs: ["${*}"]}}
  some: {run: toy.join, with: {inputs: ["${make-*}/text.txt", "${other}"]}}
  rows: {run: toy.join, with: {inputs: [{each: {n: [2, 1]}, file: "${make-{n}}", n: "{n}"}]}}
""")
    out = clone / "out" / "p"
    assert values(pipeline, "all")["inputs"] == [f"{out}/{name}" for name in ("make-1", "make-2", "other")]
    assert values(pipeline, "some")["inputs"] == [f"{out}/make-1/text.txt", f"{out}/make-2/text.txt", f"{out}/other"]
    assert values(pipeline, "rows")["inputs"] == [{"file": f"{out}/make-{n}", "n": n} for n in (2, 1)]
    assert pipeline.steps["some"].needs == ("make-1", "make-2", "other")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            "a: {run: toy.make, with: {text: '${aa}'}}\n  aaa: {run: toy.make}",
            "no variable or other step; did you mean",
        ),
        ("a: {run: toy.make, with: {text: '${a}'}}\n  b: {run: toy.make}", "'${a}' is no variable or other step"),
        ("a: {run: toy.join, with: {inputs: ['${x*}']}}", "'${x*}' matches no earlier step"),
        ("a: {run: toy.make}\n  b: {run: toy.make, with: {text: '${*}'}}", "it must stand alone as a list's item"),
        ("a-{x}: {run: toy.make}", "{…} needs an `each`"),
        ("a: {each: {x: [1, 2]}, run: toy.make}", "would be made twice"),
        ("a: {rnu: toy.make}", "unknown key 'steps.a.rnu'; did you mean 'steps.a.run'?"),
        ("a: {run: toy.make, threads: many}", "'steps.a.threads"),
        ("a: {run: toy.make}\n  a: {run: toy.make}", "'a' is set twice"),
        ("data: {run: toy.make}", "'data' is both a variable and a step"),
        (
            "a: {run: toy.join, with: {inputs: ['${b}']}}\n  b: {run: toy.join, with: {inputs: ['${a}']}}",
            "the steps go in a circle: ",
        ),
    ],
)
def test_mistakes_in_the_file_are_told(steps: str, message: str) -> None:
    """Unknown references, circles, doubled names and keys are one-line errors."""
    with pytest.raises(UserError) as error:
        read(f"vars: {{data: 1}}\nsteps:\n  {steps}\n")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_variable_without_value_is_asked_for() -> None:
    """`vars: {data: null}` must be given on the command line."""
    text = "vars: {data: null}\nsteps:\n  a: {run: toy.join, with: {inputs: ['${data}/x.txt']}}\n"
    with pytest.raises(UserError, match=r"p.yml needs a value for 'data': add data=VALUE"):
        read(text)
    assert values(read(text, "data=/corpora"), "a")["inputs"] == ["/corpora/x.txt"]


def test_a_reference_that_identity_cannot_see_is_refused() -> None:
    """${a} in a plain text field would never make the step stale, so it is an error."""
    pipeline = read("steps:\n  a: {run: toy.make}\n  b: {run: toy.make, with: {text: '${a}'}}\n")
    with pytest.raises(UserError, match=r"step 'b': \$\{a\} stands in a field of toy.make that is not a Path"):
        pipeline.check()


def test_unknown_commands_name_the_nearest() -> None:
    """A misspelt command is told before anything runs."""
    with pytest.raises(UserError, match=r"there is no command 'toy.mkae'; did you mean 'toy.make'\?"):
        read("steps:\n  a: {run: toy.mkae}\n").check()


def test_select_takes_what_is_needed() -> None:
    """Only the named steps and all above them remain, in order."""
    pipeline = read(CHAIN + "  more: {run: toy.join, with: {inputs: ['${ab}']}}\n  alone: {run: toy.make}\n")
    assert list(pipeline.select(["more"]).steps) == ["a", "b", "ab", "more"]
    assert list(pipeline.select(["a*"]).steps) == ["a", "b", "ab", "alone"]
    with pytest.raises(UserError, match="no step 'mor' in p.yml; did you mean 'more'"):
        pipeline.select(["mor"])


def test_threads_are_fixed_by_file_and_machine() -> None:
    """`all` is the cores of the machine, a number is at most that, the default is one."""
    pipeline = read("""
steps:
  a: {run: toy.make, threads: all}
  b: {run: toy.make, threads: 1000}
  c: {run: toy.make}
""")
    assert [step.threads for step in pipeline.steps.values()] == [machine.cores(), machine.cores(), 1]


def test_the_shorter_way_starts_later() -> None:
    """Height counts the longest way to an end."""
    pipeline = read("""
steps:
  c: {run: toy.join, with: {inputs: ["${b}"]}}
  x: {run: toy.make}
  b: {run: toy.join, with: {inputs: ["${a}"]}}
  a: {run: toy.make}
""")
    assert {name: step.height for name, step in pipeline.steps.items()} == {"x": 1, "a": 3, "b": 2, "c": 1}
    assert list(pipeline.steps) == ["x", "a", "b", "c"]
