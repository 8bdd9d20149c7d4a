"""What mergekit would ignore, or fail on late, is refused: keys, methods, places and values of a recipe.

Every message is one line that names the place, what was met and the nearest word that would be right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medsmith.errors import UserError, nearest
from merge_recipes import methods
from merge_recipes.methods import METHODS, Method, Parameter


@dataclass(frozen=True)
class Group:
    """Models that are merged with one another: all of them, or those of one slice or module."""

    path: str
    base: str
    entries: list[tuple[str, dict[str, Any]]]
    """Each input and where it stands."""
    above: list[tuple[str, Any]]
    """Each block of parameters that holds for all inputs and where it stands, the nearest first."""
    is_slice: bool


def check(recipe: Mapping[str, Any], where: str) -> None:
    """Check all of a recipe but whether its numbers fit together; see recipe.load_recipe."""
    _known_keys(recipe, methods.RECIPE_KEYS, where, "")
    present = [key for key in ("models", "slices", "modules") if recipe.get(key)]
    if len(present) != 1:
        found = ", ".join(present) or "none"
        raise UserError(f"{where}: give exactly one of models, slices or modules (found: {found})")
    method = _method(recipe.get("merge_method"), where)
    if not isinstance(recipe.get("base_model"), str):
        raise UserError(
            f"{where}: 'base_model' is missing; without it mergekit takes configuration and tokenizer from whichever "
            "model comes first in set order"
        )
    found_groups = groups(recipe, where)
    _check_tokenizer(recipe, found_groups, where)
    _check_texts(recipe, where)
    for group in found_groups:
        _check_inputs(method, group, recipe["base_model"], where)
        for path, parameters in group.above:
            _check_parameters(method, parameters, f"{where}: {path}", shared_place=True, is_base=False)
        for path, entry in group.entries:
            is_base = entry["model"] == group.base
            block = entry.get("parameters")
            _check_parameters(method, block, f"{where}: {path}.parameters", shared_place=False, is_base=is_base)
        _check_required(method, group, where)


def groups(recipe: Mapping[str, Any], where: str) -> list[Group]:
    """What is merged with what; keys and models are checked on the way."""
    base = recipe["base_model"]
    found = []

    def add(path: str, keys: tuple[str, ...], items: Any, above: list[tuple[str, Any]], own_base: Any = None) -> None:
        entries = [(f"{path}.{number}", item) for number, item in enumerate(_list(items, where, path))]
        for place, item in entries:
            _known_keys(item, keys, where, place)
            if not isinstance(item.get("model"), str) or not item["model"]:
                raise UserError(f"{where}: '{place}' has no 'model'; give it the name of one")
            if keys == methods.SOURCE_KEYS:
                _check_range(item.get("layer_range"), where, place)
        found.append(Group(path, own_base or base, entries, above, keys == methods.SOURCE_KEYS))

    for prefix, block, above in _blocks(recipe, where):
        if block.get("models"):
            add(f"{prefix}models", methods.MODEL_KEYS, block["models"], above)
        for path, output in _slices(block, prefix, where):
            own = (f"{path}.parameters", output.get("parameters"))
            add(f"{path}.sources", methods.SOURCE_KEYS, output.get("sources"), [own, *above], output.get("base_model"))
    return found


def output_slices(recipe: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Every slice of the output, those of modules among them."""
    return [output for prefix, block, _ in _blocks(recipe, where) for _, output in _slices(block, prefix, where)]


def _blocks(recipe: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any, list[tuple[str, Any]]]]:
    """The recipe itself and each of its modules: prefix, block, and the parameters that hold in it."""
    top = ("parameters", recipe.get("parameters"))
    yield "", recipe, [top]
    modules = recipe.get("modules") or {}
    if not isinstance(modules, Mapping):
        raise UserError(f"{where}: 'modules' must be `name: block` lines, got {modules!r}")
    for name, module in modules.items():
        path = f"modules.{name}"
        _known_keys(module, methods.MODULE_KEYS, where, path)
        if bool(module.get("slices")) == bool(module.get("models")):
            raise UserError(f"{where}: '{path}' needs either slices or models")
        yield f"{path}.", module, [(f"{path}.parameters", module.get("parameters")), top]


def _slices(block: Mapping[str, Any], prefix: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, output in enumerate(_list(block.get("slices") or [], where, f"{prefix}slices")):
        path = f"{prefix}slices.{number}"
        _known_keys(output, methods.SLICE_KEYS, where, path)
        if not output.get("sources"):
            raise UserError(f"{where}: '{path}' has no 'sources'")
        if not isinstance(output.get("base_model", ""), str | None):
            raise UserError(f"{where}: '{path}.base_model' must be a model's name, got {output['base_model']!r}")
        yield path, output


def _list(value: Any, where: str, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where}: '{path}' must be a list, got {value!r}")
    return value


def _method(name: Any, where: str) -> Method:
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(f"{where}: unknown merge_method {name!r}; {nearest(str(name), METHODS)}")
    return METHODS[name]


def _known_keys(values: Any, known: Iterable[str], where: str, path: str) -> None:
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: '{path or 'recipe'}' must be `key: value` lines, got {values!r}")
    for key in values:
        full = f"{path}.{key}" if path else key
        if key in methods.DEAD_KEYS and key in known:
            raise UserError(f"{where}: unknown key '{full}'; {methods.DEAD_KEYS[key]}")
        if key not in known:
            raise UserError(
                f"{where}: unknown key '{full}'; {nearest(str(key), set(known) - methods.DEAD_KEYS.keys())}"
            )


def _check_tokenizer(recipe: Mapping[str, Any], found: list[Group], where: str) -> None:
    source = recipe.get("tokenizer_source")
    if "tokenizer" in recipe:
        if source:
            raise UserError(f"{where}: give either tokenizer or tokenizer_source, mergekit takes only one of them")
        _known_keys(recipe["tokenizer"], methods.TOKENIZER_KEYS, where, "tokenizer")
        source = recipe["tokenizer"].get("source")
    if not isinstance(source, str):
        raise UserError(f"{where}: the tokenizer's source is missing; write `tokenizer: {{source: base}}`")
    known = {"base", "union", recipe["base_model"], *(item["model"] for one in found for _, item in one.entries)}
    if source not in known:
        raise UserError(
            f"{where}: the tokenizer's source '{source}' is no model of the recipe; {nearest(source, known)}"
        )


def _check_texts(recipe: Mapping[str, Any], where: str) -> None:
    for key in ("dtype", "out_dtype"):
        name = recipe.get(key)
        if name is not None and name not in methods.DTYPES:
            raise UserError(f"{where}: unknown {key} {name!r}; {nearest(str(name), methods.DTYPES)}")
    if not isinstance(recipe.get("chat_template"), str | None):
        raise UserError(f"{where}: 'chat_template' must be text, got {recipe['chat_template']!r}")


def _check_range(value: Any, where: str, path: str) -> None:
    whole = isinstance(value, list) and len(value) == 2 and all(type(end) is int for end in value)
    if not whole or not 0 <= value[0] < value[1]:
        raise UserError(
            f"{where}: '{path}.layer_range' must be [FIRST, END], the layers from FIRST up to but without END; got "
            f"{value!r}"
        )


def _check_inputs(method: Method, group: Group, base: str, where: str) -> None:
    listed = list(dict.fromkeys(entry["model"] for _, entry in group.entries))
    if method.base == "ignored" and group.base not in listed and not group.is_slice:
        # mergekit would add it as one more input, without a weight.
        raise UserError(
            f"{where}: {method.name} merges its base_model like any other; list '{group.base}' under models"
        )
    if group.is_slice and group.base not in listed and (method.base != "ignored" or group.base != base):
        raise UserError(f"{where}: the base model '{group.base}' must be one of {group.path}; list it there")
    inputs = len(set(listed) | ({group.base} if method.base != "ignored" else set()))
    place = f" ({group.path})" if group.path != "models" else ""
    for least, most, count, what in (
        (method.min_inputs, method.max_inputs, inputs, "models with the base"),
        (method.min_non_base, method.max_non_base, inputs - 1, "models beside the base"),
    ):
        if count < (least or 0) or (most is not None and count > most):
            wanted = f"exactly {least}" if least == most else f"at least {least}"
            raise UserError(f"{where}: {method.name} takes {wanted} {what}, the recipe names {count}{place}")
    if len(listed) != len(group.entries):
        raise UserError(f"{where}: a model is listed twice under {group.path}; give each one entry")
    depths = {entry["layer_range"][1] - entry["layer_range"][0] for _, entry in group.entries if group.is_slice}
    if len(depths) > 1:
        raise UserError(f"{where}: {group.path} take {sorted(depths)} layers; a slice has the same number from each")


def _check_parameters(method: Method, parameters: Any, where: str, shared_place: bool, is_base: bool) -> None:
    if parameters is None:
        return
    known = {parameter.name: parameter for parameter in method.parameters}
    if not isinstance(parameters, Mapping):
        raise UserError(f"{where} must be `name: value` lines, got {parameters!r}")
    for name, value in parameters.items():
        if name not in known:
            raise UserError(f"{where}: {method.name} has no parameter '{name}'; {nearest(str(name), known)}")
        scope = known[name].scope
        if not shared_place and scope == "shared":
            raise UserError(
                f"{where}: '{name}' is one for the whole merge, mergekit does not look for it here; "
                "move it to the parameters at the end of the recipe"
            )
        if is_base and scope == "non_base":
            raise UserError(f"{where}: '{name}' means nothing for the base model; remove it")
        for scalar in _scalars(value, f"{where}.{name}"):
            _check_scalar(method, known[name], scalar, f"{where}.{name}")


def _scalars(value: Any, where: str) -> list[Any]:
    """The scalars of a setting: itself, a gradient's, or those of filtered values, whose own may be gradients."""
    items = value if isinstance(value, list) else [value]
    filtered = [item for item in items if isinstance(item, Mapping)]
    if not filtered:
        return _checked_list(value, where)
    if len(filtered) != len(items):
        raise UserError(f"{where}: a list holds either plain numbers or filtered ones; write `value: …` for each here")
    scalars = []
    for item in filtered:
        _known_keys(item, methods.FILTER_KEYS, where, "")
        if not isinstance(item.get("filter"), str | None) or item.get("filter") == "":
            raise UserError(f"{where}: a filter is a part of tensors' names, got {item['filter']!r}")
        scalars += _checked_list(item.get("value"), where)
    open_to_all = [number for number, item in enumerate(items) if item.get("filter") in (None, "*")]
    if open_to_all and open_to_all[0] < len(items) - 1:
        raise UserError(f"{where}: the first value that fits is taken, so what follows the one for all is never used")
    return scalars


def _checked_list(value: Any, where: str) -> list[Any]:
    if value is None or value == []:
        raise UserError(f"{where}: a value is missing")
    return value if isinstance(value, list) else [value]


def _check_scalar(method: Method, parameter: Parameter, value: Any, where: str) -> None:
    try:
        read = parameter.kind.read(value)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    if parameter.idle and read != parameter.default:
        raise UserError(
            f"{where}: {method.name} drops nothing, so mergekit ignores '{parameter.name}'; remove it, or take ties, "
            "dare_linear or breadcrumbs"
        )


def _check_required(method: Method, group: Group, where: str) -> None:
    """Required parameters, and `density`: left out it is 1.0, which prunes nothing and makes TIES a plain sum."""
    for parameter in method.parameters:
        name = parameter.name
        if not parameter.required and (name != "density" or parameter.idle):
            continue
        why = "" if parameter.required else " (mergekit's default of 1.0 prunes nothing; write it if you mean it)"
        if any(name in (block or {}) for _, block in group.above):
            continue
        if parameter.scope == "shared":
            raise UserError(f"{where}: {method.name} needs parameters.{name}{why}")
        for path, entry in group.entries:
            exempt = entry["model"] == group.base and parameter.scope == "non_base"
            if not exempt and name not in (entry.get("parameters") or {}):
                raise UserError(f"{where}: {method.name} needs {path}.parameters.{name}{why}")
