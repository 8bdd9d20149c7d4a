"""The table of merge methods is what the installed mergekit has, and using it costs no import of mergekit."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from merge_recipes import methods
from merge_recipes.methods import COUNT, FLAG, METHODS, NUMBER, SHARE

ROOT = Path(__file__).parents[1]


def theirs() -> dict[str, Any]:
    from mergekit.merge_methods.registry import registered_methods

    return {method.spec.name: method.spec for method in registered_methods()}


def test_the_table_holds_every_method() -> None:
    """Names are the same on both sides: 20 of them."""
    assert set(METHODS) == set(theirs())
    assert len(METHODS) == 20


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_what_mergekit_says(name: str) -> None:
    """Inputs and what becomes of the base, and each parameter in order: name, type, scope, default."""
    ours, spec = METHODS[name], theirs()[name]
    contract = spec.contract
    assert (ours.base, ours.min_inputs, ours.max_inputs, ours.min_non_base, ours.max_non_base) == (
        contract.base.value,
        contract.min_inputs,
        contract.max_inputs,
        contract.min_non_base,
        contract.max_non_base,
    )
    assert [
        (one.name, one.kind.type, one.scope, one.required, None if one.required else one.default)
        for one in ours.parameters
    ] == [
        # The one optional number (passthrough's scale) has the default None, which no number has.
        (
            one.name,
            one.value_type if one.default is not None else float,
            one.scope.value,
            one.required,
            None if one.required else one.default,
        )
        for one in spec.parameters
    ]
    for one in ours.parameters:
        assert one.default is None or one.kind.read(one.default) == one.default


def test_parameters_that_do_nothing_are_known() -> None:
    """mergekit's task arithmetic gives the same sum at any density; TIES, which thins out, does not."""
    import torch
    from mergekit.merge_methods import registry
    from mergekit.merge_methods.base import TensorGroup

    assert [(m.name, p.name) for m in METHODS.values() for p in m.parameters if p.idle] == [
        ("task_arithmetic", "rescale"),
        ("task_arithmetic", "density"),
    ]
    group = TensorGroup.from_tensors([torch.zeros(4), torch.arange(1.0, 5.0)], base_index=0)
    for name, same in (("task_arithmetic", True), ("ties", False)):
        merged = [
            registry.get(name)([group], parameters={"weight": [1.0], "density": [density], "rescale": density < 1})[0]
            for density in (0.5, 1.0)
        ]
        assert torch.equal(*merged) is same


def test_keys_are_those_of_mergekits_schema() -> None:
    """Each kind of block has the keys that mergekit's own classes have."""
    from mergekit import config
    from mergekit.tokenizer.config import TokenizerConfig

    for ours, cls in (
        (methods.RECIPE_KEYS, config.MergeConfiguration),
        (methods.MODEL_KEYS, config.InputModelDefinition),
        (methods.SOURCE_KEYS, config.InputSliceDefinition),
        (methods.SLICE_KEYS, config.OutputSliceDefinition),
        (methods.MODULE_KEYS, config.OutputModuleDefinition),
        (methods.FILTER_KEYS, config.ConditionalParameter),
        (methods.TOKENIZER_KEYS, TokenizerConfig),
    ):
        assert set(ours) == set(cls.model_fields), cls.__name__


@pytest.mark.parametrize("kind", [NUMBER, COUNT, FLAG])
@pytest.mark.parametrize(
    "value", [0.5, 2, "2.0e-1", " 3 ", "1_000", True, False, "yes", "often", None, [], {}, 1.0, b"1"]
)
def test_values_are_read_as_mergekit_reads_them(kind: methods.Kind, value: Any) -> None:
    """What is accepted becomes the value that mergekit makes of it; flags and numbers are not taken for one another."""
    from pydantic import TypeAdapter, ValidationError

    try:
        ours = kind.read(value)
    except ValueError as error:
        assert str(error).endswith(f"it needs {kind.wanted}")
        try:
            accepted = TypeAdapter(kind.type).validate_python(value)
        except ValidationError:
            return
        # What mergekit takes and we do not: a flag for a number, bytes, and words or numbers for a flag.
        assert isinstance(value, bool | bytes) or isinstance(accepted, bool)
    else:
        theirs = TypeAdapter(kind.type).validate_python(value)
        assert (ours, type(ours)) == (theirs, type(theirs))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "nan is not a finite number"),
        ("-inf", "'-inf' is not a finite number"),
        (-0.1, "-0.1 is a share; choose it between 0 and 1"),
        ("1.5", "'1.5' is a share; choose it between 0 and 1"),
    ],
)
def test_shares_lie_between_nought_and_one(value: Any, message: str) -> None:
    """A share outside of its range, and what is no finite number, are told by value."""
    with pytest.raises(ValueError) as caught:
        SHARE.read(value)
    assert str(caught.value) == message
    assert [SHARE.read(end) for end in (0, 1)] == [0.0, 1.0]


def test_reading_recipes_loads_nothing_heavy() -> None:
    """A fresh process reads and checks every recipe, resolves 200 tensors, and has loaded no torch and no mergekit."""
    code = (
        "import sys, pathlib\n"
        "from merge_recipes.recipe import load_recipe\n"
        "from merge_recipes.numbers import numbers_for\n"
        "found = [load_recipe(path) for path in sorted(pathlib.Path('merge_recipes').glob('*.yml'))]\n"
        "for n in range(200):\n"
        "    numbers_for(next(r for r in found if r['merge_method'] == 'ties'), 'model.layers.1.x', 1, 2)\n"
        "print(len(found), sorted({'torch', 'mergekit', 'transformers', 'numpy', 'peft'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, loaded = done.stdout.split(maxsplit=1)
    assert int(count) >= 5 and loaded.strip() == "[]"
