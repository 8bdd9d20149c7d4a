"""What mergekit knows: its merge methods with their parameters, and the keys of its recipes.

Kept here as a table because mergekit tells it only after five seconds of imports, and reading, checking and planning a
recipe should cost nothing. tests/test_merge_recipes_methods.py compares every entry with the installed mergekit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Value = float | int | bool


@dataclass(frozen=True)
class Kind:
    """A type of value: what mergekit declares, what a person is told, and the range that makes sense."""

    type: type[Value]
    wanted: str
    least: float = -math.inf
    most: float = math.inf

    def read(self, value: Any) -> Value:
        """The value in its own type; numbers may be text, as YAML reads `2e-5`.

        Raises:
            ValueError: no such value, with what is wanted; a flag must be true or false, a number finite.
        """
        if self.type is bool:
            if isinstance(value, bool):
                return value
            raise ValueError(f"{value!r} is not a valid value; it needs {self.wanted}")
        number = _number(value)
        if number is None or (self.type is int and math.isfinite(number) and number != int(number)):
            raise ValueError(f"{value!r} is not a valid value; it needs {self.wanted}")
        if not math.isfinite(number):
            raise ValueError(f"{value!r} is not a finite number")
        if not self.least <= number <= self.most:
            share = self.least == 0 and self.most == 1
            remedy = "is a share; choose it between 0 and 1" if share else f"is out of range; it needs {self.wanted}"
            raise ValueError(f"{value!r} {remedy}")
        return int(number) if self.type is int else number


def _number(value: Any) -> float | None:
    """A number or a text that is one; pydantic, and so mergekit, would take `true` for 1.0 as well."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


NUMBER = Kind(float, "a number")
SHARE = Kind(float, "a number between 0 and 1", 0, 1)
NOT_NEGATIVE = Kind(float, "a number that is not negative", 0)
COUNT = Kind(int, "a whole number from 1 on", 1)
FLAG = Kind(bool, "true or false")

Scope = Literal["shared", "input", "non_base"]
"""One value for the merge, one for each model, one for each model but the base."""

BasePolicy = Literal["required", "optional", "ignored"]
"""What a method does with the base model; `ignored`: it is a model like any other, and must be listed as one."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a merge method. `default` None: it must be given if `required`, else nothing is done."""

    name: str
    kind: Kind
    scope: Scope = "shared"
    default: Value | None = None
    required: bool = False
    idle: bool = False
    """mergekit takes it and does nothing with it."""


@dataclass(frozen=True)
class Method:
    """A merge method: what inputs it takes (None: any number) and by which parameters."""

    name: str
    base: BasePolicy
    parameters: tuple[Parameter, ...] = ()
    min_inputs: int = 1
    max_inputs: int | None = None
    min_non_base: int | None = None
    max_non_base: int | None = None
    shared: tuple[Parameter, ...] = field(init=False, repr=False)
    own: tuple[Parameter, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shared", tuple(one for one in self.parameters if one.scope == "shared"))
        object.__setattr__(self, "own", tuple(one for one in self.parameters if one.scope != "shared"))

    @property
    def adds_changes(self) -> bool:
        """Whether it adds weighted changes of each model to the base (task arithmetic and what thins out first)."""
        return any(one.name == "lambda" for one in self.parameters)


def _task_vectors(name: str, normalize: bool, rescale: bool, *extra: Parameter, thins: bool = True) -> Method:
    """The family that adds each model's change, thinned out, to the base."""
    return Method(
        name,
        "required",
        (
            Parameter("int8_mask", FLAG, default=False),
            Parameter("normalize", FLAG, default=normalize),
            Parameter("rescale", FLAG, default=rescale, idle=not thins),
            Parameter("lambda", NUMBER, default=1.0),
            Parameter("weight", NUMBER, "non_base", required=True),
            Parameter("density", SHARE, "non_base", 1.0, idle=not thins),
            *extra,
        ),
    )


_GAMMA = Parameter("gamma", SHARE, "non_base", 0.01)
_EPSILON = Parameter("epsilon", SHARE, "non_base", 0.15)

METHODS = {
    method.name: method
    for method in (
        Method(
            "multislerp",
            "optional",
            (
                Parameter("weight", NUMBER, "non_base", required=True),
                Parameter("normalize_weights", FLAG, default=True),
                Parameter("eps", NOT_NEGATIVE, default=1e-8),
            ),
            min_non_base=1,
        ),
        Method("nearswap", "required", (Parameter("t", NOT_NEGATIVE, required=True),), min_inputs=2, max_inputs=2),
        Method("ram", "required", (Parameter("epsilon", NOT_NEGATIVE, default=1e-5),)),
        Method(
            "ramplus_tl",
            "required",
            (
                Parameter("r", NOT_NEGATIVE, default=0.1),
                Parameter("alpha", NOT_NEGATIVE, default=0.2),
                Parameter("epsilon", NOT_NEGATIVE, default=1e-5),
            ),
        ),
        Method(
            "sce",
            "required",
            (Parameter("int8_mask", FLAG, default=False), Parameter("select_topk", SHARE, default=1.0)),
        ),
        Method(
            "linear",
            "ignored",
            (Parameter("weight", NUMBER, "input", required=True), Parameter("normalize", FLAG, default=True)),
        ),
        Method("slerp", "required", (Parameter("t", SHARE, required=True),), min_inputs=2, max_inputs=2),
        Method(
            "nuslerp",
            "optional",
            (
                Parameter("weight", NUMBER, "non_base", required=True),
                Parameter("nuslerp_row_wise", FLAG, default=False),
                Parameter("nuslerp_flatten", FLAG, default=True),
            ),
            min_non_base=2,
            max_non_base=2,
        ),
        Method("passthrough", "ignored", (Parameter("scale", NUMBER, "input"),), max_inputs=1),
        Method("model_stock", "required", (Parameter("filter_wise", FLAG, default=False),), min_inputs=3),
        Method("arcee_fusion", "required", min_inputs=2, max_inputs=2),
        Method(
            "karcher",
            "ignored",
            (Parameter("max_iter", COUNT, default=10), Parameter("tol", NOT_NEGATIVE, default=1e-5)),
        ),
        _task_vectors("task_arithmetic", False, False, thins=False),
        _task_vectors("ties", True, False),
        _task_vectors("dare_ties", False, True),
        _task_vectors("dare_linear", False, True),
        _task_vectors("breadcrumbs", False, False, _GAMMA),
        _task_vectors("breadcrumbs_ties", False, False, _GAMMA),
        _task_vectors("della", True, True, _EPSILON),
        _task_vectors("della_linear", False, True, _EPSILON),
    )
}
"""Every method that mergekit 0.1.5 registers, by name."""

RECIPE_KEYS = (
    "modules", "slices", "models", "merge_method", "base_model", "dtype", "tokenizer_source", "tokenizer",
    "chat_template", "out_dtype", "parameters",
)  # fmt: skip
MODEL_KEYS = ("model", "parameters")
SOURCE_KEYS = ("model", "layer_range", "parameters")
SLICE_KEYS = ("sources", "base_model", "residual_weight", "parameters")
MODULE_KEYS = ("slices", "models", "parameters")
FILTER_KEYS = ("value", "filter")
TOKENIZER_KEYS = ("source", "tokens", "pad_to_multiple_of")

DEAD_KEYS = {
    "residual_weight": "mergekit never reads it; remove it",
    "tokens": "it rearranges a vocabulary; models that share one need no such thing, remove it",
    "pad_to_multiple_of": "it rearranges a vocabulary; models that share one need no such thing, remove it",
}
"""Keys that mergekit knows and a recipe of ours may not have, with the reason."""

DTYPES = ("float32", "bfloat16", "float16")
"""Types that a model is merged and saved in; mergekit knows float64 and int64 too, which no model here is."""
