"""Do the models of a merge read text alike? Compared by their files, by transformers only where these differ.

Loading five tokenizers takes seconds; nearly always their files are the base's, up to what bears on no token.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from medsmith.errors import UserError

LOG = logging.getLogger(__name__)

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"

VOCABULARIES = ("tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "spiece.model")
"""The other files that a vocabulary may lie in."""

SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")

WITHOUT_WEIGHT = {
    "padding_side", "truncation_side", "model_max_length", "max_length", "chat_template", "name_or_path", "backend",
    "is_local", "local_files_only", "processor_class", "special_tokens_map_file", "clean_up_tokenization_spaces",
}  # fmt: skip
"""Keys of tokenizer_config.json that bear on no token; the chat template is compared by itself."""


def check_tokenizers(folders: Mapping[str, Path], base: str, own_template: bool = False) -> None:
    """Check that all models share the base's vocabulary, way of splitting and (unless `own_template`) chat template.

    Which tokens are special and where generation ends may differ: the merge takes the base's, and the log says so.

    Raises:
        UserError: a model without tokenizer, or the first difference from the base.
    """
    for name, folder in folders.items():
        if not any((folder / file).is_file() for file in (TOKENIZER, *VOCABULARIES)):
            raise UserError(
                f"'{name}' has no tokenizer (no {TOKENIZER} in {folder}); copy the base's files into its folder if it "
                "was trained with them"
            )
    others = {name: folder for name, folder in folders.items() if name != base}
    doubtful = [
        name
        for name, folder in others.items()
        if not reads_alike(folder, folders[base]) or not (own_template or _template(folder) == _template(folders[base]))
    ]
    if doubtful:
        _compare_loaded({name: folders[name] for name in (base, *doubtful)}, base, own_template)
    for name, folder in others.items():
        for difference in differences(folder, folders[base]):
            LOG.info("'%s' has %s; the merge has those of '%s'", name, difference, base)


def reads_alike(folder: Path, base: Path) -> bool:
    """Whether the files alone show that two tokenizers split every text into the same tokens; False where in doubt."""
    if any(_bytes(folder / file) != _bytes(base / file) for file in VOCABULARIES):
        return False
    if _bytes(folder / TOKENIZER) != _bytes(base / TOKENIZER) and _core(folder) != _core(base):
        return False
    ours, theirs = _settings(base), _settings(folder)
    unlike = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)} - WITHOUT_WEIGHT
    if not unlike:
        return True
    if not unlike <= set(SPECIAL):
        return False
    # A token that is special in the vocabulary's own file is so whatever role it has.
    special = {token.get("content") for token in _core(base).get("added_tokens") or [] if token.get("special")}
    return all(_content(values.get(key)) in {None, *special} for key in unlike for values in (ours, theirs))


def differences(folder: Path, base: Path) -> list[str]:
    """Special tokens and ends of generation that are not the base's, in words."""
    found = []
    ours, theirs = _special(base), _special(folder)
    for key in SPECIAL:
        if ours[key] != theirs[key]:
            found.append(f"{key} {theirs[key]!r}, not {ours[key]!r}")
    if (stops := _stops(folder)) != (known := _stops(base)):
        found.append(f"generation end at the tokens {stops}, not {known}")
    return found


def _special(folder: Path) -> dict[str, str | None]:
    named = {**_json(folder / "special_tokens_map.json"), **_settings(folder)}
    return {key: _content(named.get(key)) for key in SPECIAL}


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _stops(folder: Path) -> list[int]:
    """The tokens at which generation ends, sorted."""
    for file in ("generation_config.json", "config.json"):
        stops = _json(folder / file).get("eos_token_id")
        if stops is not None:
            return sorted(stops) if isinstance(stops, list) else [stops]
    return []


def _template(folder: Path) -> Any:
    return _bytes(folder / TEMPLATE) or _settings(folder).get("chat_template")


def _settings(folder: Path) -> dict[str, Any]:
    return _json(folder / SETTINGS)


def _core(folder: Path) -> dict[str, Any]:
    """What decides how a text is split; padding and truncation are only the last caller's wishes."""
    return {key: value for key, value in _json(folder / TOKENIZER).items() if key not in {"padding", "truncation"}}


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _json(path: Path) -> dict[str, Any]:
    """A file's mapping, not to be changed; empty where there is no file."""
    try:
        values = _parse(_bytes(path) or b"{}")
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not whole JSON; fetch or make the model again")
    return values


@functools.lru_cache(maxsize=8)
def _parse(text: bytes) -> Any:
    """Kept for a moment: the base's vocabulary of up to 17 MB is compared with each expert's."""
    return orjson.loads(text)


def _compare_loaded(folders: Mapping[str, Path], base: str, own_template: bool) -> None:
    """The authority: what transformers makes of the files."""
    tokenizers = {name: _load(name, folder) for name, folder in folders.items()}
    ours, our_core = tokenizers[base], _loaded_core(tokenizers[base])
    vocabulary = ours.get_vocab()
    for name, tokenizer in tokenizers.items():
        other = tokenizer.get_vocab()
        if other != vocabulary:
            token = min(
                token for token in vocabulary.keys() | other.keys() if vocabulary.get(token) != other.get(token)
            )
            raise UserError(
                f"'{name}' has another vocabulary than '{base}': {token!r} is {other.get(token)}, not "
                f"{vocabulary.get(token)}; a merge needs one tokenizer"
            )
        if _loaded_core(tokenizer) != our_core:
            raise UserError(f"'{name}' splits text otherwise than '{base}' (tokenizer.json differs); use one tokenizer")
        if tokenizer.chat_template != ours.chat_template and not own_template:
            raise UserError(
                f"'{name}' has another chat template than '{base}'; train it with the base's, or set chat_template in "
                "the recipe"
            )


def _load(name: str, folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"'{name}': transformers cannot read the tokenizer in {folder} ({reason}); mend it") from None


def _loaded_core(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    return {key: value for key, value in json.loads(backend.to_str()).items() if key not in {"padding", "truncation"}}
