"""A corpus' own card: README.md with what it holds, under which licences, what was left out and why, and its traps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experts.corpus.known import Known

if TYPE_CHECKING:
    from experts.corpora import Config

PRIVATE = (
    "> **Data under an agreement.** This folder holds ids, digests and places, no text. Training reads the texts from "
    "the original files and checks the digests. It may not be published."
)


def write_card(config: Config, known: Known | None, summary: Mapping[str, Any], simulated: bool) -> str:
    """The text of README.md. The same settings and documents give the same text; no path of this machine is in it."""
    documents, words, tokens = summary["documents"], summary["words"], summary.get("tokens", {})
    counts = [
        [name, f"{documents[name]:,}", f"{words[name]:,}", f"{tokens[name]:,}" if tokens else "–"]
        for name in ("train", "heldout", "dropped")
    ]
    parts = [
        f"# {known.title if known else config.out.name}",
        f"{documents['read']:,} documents were read, and every one is in one of three files.",
        *([PRIVATE] if config.access == "credentialed" else []),
        *(["> **Simulated.** These texts are about invented patients, and no medical knowledge."] if simulated else []),
        table(["file", "documents", "words", "tokens"], counts),
        *([f"Tokens are those of `{_name(config.tokenizer)}`, without marks."] if tokens else []),
        "## Licences",
        licences(summary),
        "## Left out",
        left_out(summary),
        "## Held out",
        held_out(config, summary),
        *(["## As published", *published(known)] if known else []),
        "## Traps",
        "\n".join(f"* {trap}" for trap in traps(config, known, summary)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def licences(summary: Mapping[str, Any]) -> str:
    """What documents are under, by source, and what that restricts."""
    rows = []
    for source, stated in summary["licences"].items():
        counts = summary["sources"][source]
        number = counts.get("train", 0) + counts.get("heldout", 0)
        rows.append([source, f"{number:,}", f"{counts['words']:,}", stated, ", ".join(counts["licence_kinds"])])
    kinds = summary.get("licence_kinds", {})
    kept = summary["documents"]["train"] + summary["documents"]["heldout"]
    said = [f"{count:,} of {kept:,} documents kept are {kind}" for kind, count in kinds.items()]
    return table(["source", "documents", "words", "licences", "kinds"], rows) + f"\n\n{'; '.join(said)}."


def left_out(summary: Mapping[str, Any]) -> str:
    """Reasons and counts; what was looked for and not found is said too."""
    rows = [[reason, f"{count:,}"] for reason, count in summary["dropped"].items()]
    parts = [table(["reason", "documents"], rows) if rows else "Nothing."]
    if summary.get("benchmarks"):
        parts.append(table(["benchmark", "documents that held its texts"], summary["benchmarks"].items()))
    if summary.get("template_texts"):
        parts.append(
            "Texts that many documents hold are language, not copies, and were not acted on: "
            + ", ".join(f"{name} {count}" for name, count in summary["template_texts"].items())
            + "."
        )
    if any(summary.get("unprotected_items", {}).values()):
        parts.append(
            "Benchmark items too short to be told from chance: "
            + ", ".join(f"{name} {count}" for name, count in summary["unprotected_items"].items() if count)
            + "."
        )
    return "\n\n".join(parts)


def held_out(config: Config, summary: Mapping[str, Any]) -> str:
    """How the two sides were divided."""
    if config.split.by == "time":
        return f"By time: what is of {summary.get('split_at')} or later is held out."
    if config.form == "lines":
        return (
            f"{config.heldout_share:.0%} of all lines, by the hash of their ids, with seed {config.seed}: other "
            "wordings of codes that are read. Their loss tells recall; no code's meaning follows from another's."
        )
    unit = {"document": "documents", "patient": "patients, each with all documents on one side"}[config.split.by]
    of = "of every source" if config.split.by_source else "of all"
    return f"{config.heldout_share:.0%} {of}, by the hash of {unit}, with seed {config.seed}."


def published(known: Known) -> list[str]:
    """What the corpus' authors and the paper say of it."""
    rows = [
        ["licence", known.published.license],
        ["documents", known.published.documents],
        ["tokens", known.published.tokens],
        ["hub", known.hub or "–"],
    ]
    return [table(["", "as published"], [row for row in rows if row[1]])]


def traps(config: Config, known: Known | None, summary: Mapping[str, Any]) -> list[str]:
    """What is known of the corpus, and what these settings leave open."""
    found = list(known.traps) if known else []
    kinds = summary.get("licence_kinds", {})
    if kinds.get("non-commercial"):
        found.append(
            f"{kinds['non-commercial']:,} documents kept are under a non-commercial licence: a model trained on them "
            "may be bound by it. licences={deny: [non-commercial]} leaves them out."
        )
    if kinds.get("unknown"):
        found.append(
            f"The licences of {kinds['unknown']:,} documents kept were not recognised; a person must read them."
        )
    if not config.blocklists:
        found.append("No benchmark's texts were looked for; name the files of those you report in blocklists.")
    if config.near_duplicates.threshold is None:
        found.append("Near duplicates were not looked for, so held-out documents may have near copies in training.")
    if config.split.by != "patient" and "patient" not in config.columns and not (known and "patient" in known.columns):
        found.append("Patients are not known here: documents of one patient may stand on both sides.")
    return found


def table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    lines = [list(header), ["---"] * len(header), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _name(model: Any) -> str:
    return str(getattr(model, "name", model))
