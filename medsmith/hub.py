"""Cards of models and data sets, written from run.json: what it is, how it was made, data, licences, scores, limits."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from medsmith.errors import UserError
from medsmith.licences import BASE_FIELDS, unlicensed_bases
from medsmith.licences import check_licences as check_licences  # asked before a card is written
from medsmith.records import read_json
from medsmith.run import read_record

PUBLISHED = "published.json"
ADAPTER = "adapter_config.json"
UNKNOWN = "**not known**: a plain folder without run.json; state its licence before you publish"
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w.-]+)?$")
LICENCE_IDS = {
    "apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc0-1.0", "cc-by-4.0", "cc-by-3.0", "cc-by-2.0",
    "cc-by-sa-4.0", "cc-by-sa-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "odc-by",
    "pddl", "cdla-permissive-2.0", "lgpl-3.0", "gpl-3.0", "openrail",
}  # fmt: skip
WHAT = {
    "experts.corpora": "A corpus of documents: cleaned, filtered by licence, without repeats, a part held out",
    "experts.train": "An expert: a base model trained further on one corpus",
    "merge_recipes.build": "A merge of models, made without training",
    "merge_recipes.search": "A merge of models, its free numbers chosen on validation data",
    "merge_recipes.extract": "A LoRA adapter: the low-rank part of what an expert changed of its base",
    "align.sft": "A model tuned on clinical instructions (SFT)",
    "align.dpo": "A model tuned on clinical instructions and on preferences (SFT, then DPO)",
    "align.distill": "A model that learned from a larger one's texts or probabilities (distillation)",
    "align.sample": "Preference pairs from a model's own answers: the best of several against the worst",
    "mediflow.curate": "Synthetic clinical instructions, judged and curated",
    "mediflow.pair": "Synthetic clinical preference pairs: a good answer and a flawed one",
}
TAGS = {
    "merge_recipes.build": ["merge", "mergekit"],
    "merge_recipes.search": ["merge", "mergekit"],
    "merge_recipes.extract": ["lora", "peft"],
    "align.sft": ["sft", "trl"],
    "align.dpo": ["dpo", "trl"],
    "align.distill": ["distillation", "trl"],
    "align.sample": ["preference"],
    "experts.train": ["continued-pretraining"],
    "mediflow.pair": ["preference"],
}


ENGINES = {
    "stream": "medsmith's streaming engine (in float32, rounded once; equal to mergekit within that rounding)",
    "mergekit": "[mergekit](https://github.com/arcee-ai/mergekit)",
}


@dataclass(frozen=True)
class Scored:
    """An evaluated model of the card's score table: `self`, or an ancestor by its command and name."""

    name: str
    result: dict[str, Any]


def kind_of(folder: Path) -> str:
    """`model` or `dataset`; UserError where the folder holds neither."""
    if ((folder / "config.json").is_file() or (folder / ADAPTER).is_file()) and any(folder.glob("*.safetensors")):
        return "model"
    if any(folder.glob("data/*.parquet")) or any(folder.glob("*.jsonl")) or any(folder.glob("*.parquet")):
        return "dataset"
    raise UserError(f"{folder} holds neither a model (config.json, *.safetensors) nor rows (*.parquet, *.jsonl)")


def adapter_base(folder: Path) -> str | None:
    """The hub id of an adapter's base: as the adapter names it, or where the base's folder was published; else None."""
    said = str(read_json(folder / ADAPTER).get("base_model_name_or_path") or "")
    place = Path(said).expanduser()
    if said and place.is_dir():
        return str(read_json(place / PUBLISHED)["repo"]) if (place / PUBLISHED).is_file() else None
    return said if HUB_ID.match(said) else None


def portable_adapter(folder: Path) -> str:
    """An adapter's configuration with its base by hub id, or by name alone, in place of a folder of this machine."""
    settings = read_json(folder / ADAPTER)
    base = adapter_base(folder) or Path(str(settings.get("base_model_name_or_path") or "")).name
    return json.dumps({**settings, "base_model_name_or_path": base}, indent=2)


def write_card(folder: Path, record: dict[str, Any], repo: str, licences: dict[str, str]) -> str:
    """The README.md of a hub repository, the hub's YAML metadata on top. The same run folders give the same text."""
    kind = kind_of(folder)
    simulated = is_simulated(record)
    command = str(record["command"])
    noun = "model" if kind == "model" else "data set"
    scored = find_scores(folder, record) if kind == "model" else []
    benchmarks = scored[0].result["benchmarks"] if scored else {}
    sources = list(licences.items()) + [(f"base model {name}", UNKNOWN) for name in unlicensed_bases(record)]
    values = {
        "title": repo.rpartition("/")[2],
        "summary": f"{WHAT.get(command, 'A ' + noun)}. Made by `{command}` of medsmith.",
        "noun": noun,
        "kind": kind,
        # Such a data set's own text says better what was simulated of it.
        "simulated": simulated and not record["facts"].get("own_passages"),
        "simulated_benchmarks": any(value.get("simulated") for value in benchmarks.values()),
        "body": _own_text(folder) if kind == "dataset" else "",
        "scores": {"protocol": scored[0].result.get("protocol", ""), "table": _score_table(scored)} if scored else None,
        "lineage": lineage_table(record),
        "recipe": portable_recipe(folder),
        "parents": parents_table(record),
        "engine": ENGINES.get(record["facts"].get("engine", "mergekit"), ""),
        "command": command,
        "settings": _yaml(_without_none(record["identity"]["settings"])),
        "licences": _table(["source", "licence"], [list(source) for source in sources]),
        "repo": repo,
        "provenance": _provenance(record),
    }
    metadata = _metadata(folder, record, kind, simulated, licences)
    text = _templates().get_template("card.md.jinja").render(values)
    return f"---\n{_yaml(metadata)}\n---\n\n" + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def is_simulated(record: dict[str, Any]) -> bool:
    """Whether anything on the way was simulated."""
    return any(entry.get("facts", {}).get("simulated") for entry in [*record["ancestry"], record])


def lineage_table(record: dict[str, Any]) -> str:
    """The whole ancestry, in order of making, as a Markdown table."""
    numbers = {entry["key"]: number for number, entry in enumerate(record["ancestry"], 1)}
    rows = []
    own = {**record, "name": "this", "parents": sorted(set(record["parents"].values()))}
    for entry in [*record["ancestry"], own]:
        parents = sorted(numbers[key] for key in entry.get("parents", []) if key in numbers)
        counts = ", ".join(f"{name} {count:,}" for name, count in list(entry.get("counts", {}).items())[:4])
        number = str(numbers.get(entry["key"], len(numbers) + 1))
        made_from = ", ".join(map(str, parents)) or "–"
        rows.append([number, f"`{entry['command']}`", entry["name"], made_from, counts or "–", f"`{entry['key']}`"])
    return _table(["", "step", "name", "from", "rows", "key"], rows)


def parents_table(record: dict[str, Any]) -> str:
    """The models of a merge: the recipe's name, what each is, and its weights; empty where nothing was merged."""
    parents = record["facts"].get("parents")
    if not parents:
        return ""
    known = {entry["key"]: entry for entry in record["ancestry"]}
    rows = []
    for name, about in parents.items():
        entry = known.get(record["parents"].get(f"models.{name}", ""), {"command": "hub", "name": name})
        made = "a plain folder" if entry["command"] == "file" else f"`{entry['command']}` {entry['name']}"
        if entry["command"] == "hub":
            made = str(record["identity"]["settings"].get("models", {}).get(name) or name)
        base = " (base)" if name == record["facts"].get("base") else ""
        rows.append([f"{name}{base}", made, f"`{about['weights'][:16]}`"])
    return _table(["in the recipe", "what it is", "weights (sha256)"], rows)


def find_scores(folder: Path, record: dict[str, Any]) -> list[Scored]:
    """The evaluations that lie beside the folder: of this very model first, then of its ancestors, nearest first.

    An evaluation belongs to a model by the key of the run that it read, not by a name. Of several the fullest counts
    (most benchmarks, then most items), and beside this model's stand only those of its protocol. Without one: none.
    """
    wanted = {record["key"]: "this model"}
    for entry in reversed(record["ancestry"]):
        wanted.setdefault(entry["key"], f"{entry['name']} (`{entry['command']}`)")
    found: dict[str, list[dict[str, Any]]] = {}
    for root in dict.fromkeys((folder.resolve().parent, folder.resolve().parent.parent)):
        for path in sorted([*root.glob("*/result.json"), *root.glob("*/*/result.json")]):
            evaluation = read_record(path.parent)
            key = str(evaluation["parents"].get("model")) if evaluation else ""
            if key in wanted:
                found.setdefault(key, []).append(read_json(path))
    if record["key"] not in found:
        return []
    own = max(found[record["key"]], key=_fullness)
    alike = {key: [one for one in found.get(key, []) if one.get("protocol") == own.get("protocol")] for key in wanted}
    return [Scored(name, max(alike[key], key=_fullness)) for key, name in wanted.items() if alike[key]]


def _fullness(result: dict[str, Any]) -> tuple[int, int]:
    return len(result["benchmarks"]), sum(entry["n"] for entry in result["benchmarks"].values())


def portable_recipe(folder: Path) -> str:
    """The merge recipe with the models' names in place of the folders of this machine; empty where there is none."""
    path = folder / "recipe.yml"
    if not path.is_file():
        return ""
    return re.sub(r"(?<![\w:/])/(?:[^\s'\"/]+/)+([^\s'\"/]+)", r"\1", path.read_text(encoding="utf-8")).strip()


def _score_table(scored: list[Scored]) -> str:
    """This model's benchmarks; of the others what was asked of as many items, and the average where all of it was."""
    asked = {name: entry["n"] for name, entry in scored[0].result["benchmarks"].items()}
    rows = []
    for model in scored:
        theirs = model.result["benchmarks"]
        cells = {name: theirs[name] for name in asked if name in theirs and theirs[name]["n"] == asked[name]}
        if not cells:
            continue
        average = model.result.get("average") if cells.keys() == asked.keys() == theirs.keys() else None
        name = f"**{model.name}**" if model is scored[0] else model.name
        rows.append([name, *(_percent(cells.get(name)) for name in asked), _percent(average)])
    marks = ["†" if scored[0].result["benchmarks"][name].get("simulated") else "" for name in asked]
    header = [f"{name}{mark}" for name, mark in zip(asked, marks, strict=True)]
    return _table(["model", *header, "average"], rows)


def _percent(interval: dict[str, Any] | None) -> str:
    if not interval or interval.get("value") is None:
        return "–"
    if interval["low"] is None:  # all items are about one document: there is no interval
        return f"{100 * interval['value']:.1f}"
    return f"{100 * interval['value']:.1f} ({100 * interval['low']:.1f} – {100 * interval['high']:.1f})"


def _metadata(
    folder: Path, record: dict[str, Any], kind: str, simulated: bool, licences: dict[str, str]
) -> dict[str, Any]:
    command = str(record["command"])
    tags = ["medsmith", "medical", "clinical", *TAGS.get(command, [])]
    tags += ["simulated"] if simulated else []
    # A corpus' setting of that name is the licence of documents that name none.
    stated = record["identity"]["settings"].get("license") if command.startswith("mediflow.") else None
    values: dict[str, Any] = {"language": ["en"], **_licence(licences, stated)}
    if kind == "model":
        bases, library = base_models(record), "transformers"
        if (folder / ADAPTER).is_file():
            library = "peft"
            bases = [base.partition("@")[0]] if (base := adapter_base(folder)) else bases
        values |= {"library_name": library, "pipeline_tag": "text-generation"}
        if bases:
            relation = "merge" if command in ("merge_recipes.build", "merge_recipes.search") else "finetune"
            relation = "adapter" if library == "peft" else relation
            values |= {"base_model": bases, "base_model_relation": relation}
        return values | {"tags": tags}
    tags += ["synthetic"] if command.startswith("mediflow.") else []
    shards = (
        "data/*.parquet"
        if any(folder.glob("data/*.parquet"))
        else sorted(
            path.name
            for path in [*folder.glob("*.parquet"), *folder.glob("*.jsonl")]
            if not path.name.startswith("dropped")
        )
    )
    files = [{"split": "train", "path": shards}]
    if command == "experts.corpora":
        files = [{"split": "train", "path": "train.jsonl"}, {"split": "validation", "path": "heldout.jsonl"}]
    configs = [{"config_name": "default", "data_files": files}]
    return values | {"task_categories": ["text-generation"], "tags": tags, "configs": configs}


def _licence(licences: dict[str, str], stated: str | None = None) -> dict[str, str]:
    """What a person stated of the data set; else the one licence where there is one; else `other`, not our choice."""
    if stated and stated != "other":
        known_to_hub = stated.lower() in LICENCE_IDS
        names = {"license": stated.lower()} if known_to_hub else {"license": "other", "license_name": stated}
        return names if known_to_hub else {**names, "license_link": "README.md"}
    known = {licence.partition(" (")[0].strip().lower().replace(" ", "-") for licence in licences.values()}
    if len(known) == 1 and known <= LICENCE_IDS:
        return {"license": known.pop()}
    return {
        "license": "other",
        "license_name": "several" if len(known) > 1 else "see-card",
        "license_link": "README.md",
    }


def base_models(record: dict[str, Any]) -> list[str]:
    """The hub ids that the way started from, without revisions (the hub's metadata takes none)."""
    found: list[str] = []
    for settings in [*(entry.get("settings", {}) for entry in record["ancestry"]), record["identity"]["settings"]]:
        for field, value in settings.items():
            values = value.values() if isinstance(value, dict) else [value]
            if field in BASE_FIELDS or field == "models":
                found += [text.partition("@")[0] for text in values if isinstance(text, str) and HUB_ID.match(text)]
    return list(dict.fromkeys(found))


def _own_text(folder: Path) -> str:
    """What the step itself wrote about its data set: its README.md without metadata and title."""
    path = folder / "README.md"
    if not path.is_file():
        return ""
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(encoding="utf-8"), flags=re.DOTALL).strip()
    return re.sub(r"\A# .*\n+", "", text)


def _provenance(record: dict[str, Any]) -> str:
    git = record.get("git", {})
    commit = f"`{git['commit']}`{' with local changes' if git.get('dirty') else ''}" if git.get("commit") else "unknown"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(record.get("versions", {}).items()))
    lines = [
        ["run", f"`{record['key']}`"],
        ["content (sha256)", f"`{record['digest']}`"],
        ["code", f"medsmith, commit {commit}"],
        ["libraries", versions or "none that change the result"],
        ["made", f"{record['ended'][:10]}, in {record['seconds']:,.0f} s ({record['cpu_seconds']:,.0f} CPU s)"],
    ]
    return _table(["", ""], lines)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _without_none(value: Any) -> Any:
    """Settings without the inputs (None in an identity: the lineage names them) and without what was left open."""
    if not isinstance(value, dict):
        return value
    inner = {key: _without_none(item) for key, item in value.items() if item is not None}
    return {key: item for key, item in inner.items() if item != {}}


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)).strip()


@cache
def _templates() -> Environment:
    # Markdown, not HTML: nothing to escape.
    return Environment(
        loader=PackageLoader("medsmith"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
