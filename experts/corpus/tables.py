"""Documents out of code tables: ICD-10-CM, which comes with a package, and ATC, from the user's own file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medsmith.errors import UserError
from medsmith.records import Document
from medsmith.row_files import name_columns, stream_rows

# ICD-10-CM is published by the US government (CDC/NCHS); the package that carries the table is under MIT.
ICD10CM_LICENCE = "public domain (US government, CDC/NCHS)"
WORDINGS = (
    "ICD-10-CM code {code}: {name}.",
    "{name}: this diagnosis is coded {code} in ICD-10-CM.",
    "Question: What does the ICD-10-CM code {code} stand for? Answer: {name}.",
    "In ICD-10-CM, {code} is the code for {name}.",
    "The meaning of the diagnosis code {code} is {name}.",
    "Question: Which ICD-10-CM code stands for {name}? Answer: {code}.",
    "{name} has the ICD-10-CM code {code}.",
)
"""Ways of saying what a code means, the code first or the name. None is that of eval.make_icd10cm's questions."""
ATC_LEVELS = {1: 1, 3: 2, 4: 3, 5: 4, 7: 5}
"""The level of an ATC code, by its length."""


def icd10cm(prefixes: Sequence[str], max_characters: int | None) -> Iterator[Document]:
    """One document a category of ICD-10-CM: what it is, where it stands, and its codes with their descriptions.

    Raises:
        UserError: a prefix that no code begins with.
    """
    import simple_icd_10_cm as table

    found: dict[str, list[str]] = defaultdict(list)
    for code in _icd10cm_codes(prefixes, max_characters):
        found[code[:3]].append(code)
    for category, members in found.items():
        title = table.get_description(category)
        places = [table.get_description(place) for place in table.get_ancestors(category, prioritize_blocks=False)]
        lines = [f"ICD-10-CM category {category}: {title}.", f"It belongs to {', in '.join(dict.fromkeys(places))}."]
        included = table.get_includes(category) + table.get_inclusion_term(category)
        if included:
            lines.append(f"It includes {'; '.join(included)}.")
        lines += [f"ICD-10-CM code {code}: {table.get_description(code)}." for code in members if code != category]
        if table.is_leaf(category):
            lines.append(f"ICD-10-CM code {category}: {title}.")
        yield Document(f"icd10cm-{category}", title, "\n".join(lines), "ICD-10-CM", ICD10CM_LICENCE)


def icd10cm_lines(prefixes: Sequence[str], max_characters: int | None, wordings: int) -> Iterator[Document]:
    """A document a code of ICD-10-CM and wording, of one line: what the code means.

    A page of a category is learnt in its order: a model that says it by heart did not know a code that it was asked for
    by itself. Lines that stand alone and differ in wording taught it (docs/does_it_work.md).

    Raises:
        UserError: a prefix that no code begins with.
    """
    import simple_icd_10_cm as table

    for code in _icd10cm_codes(prefixes, max_characters):
        name = table.get_description(code)
        for number, wording in enumerate(WORDINGS[:wordings], 1):
            line = wording.format(code=code, name=name)
            yield Document(f"icd10cm-{code}-{number}", name, line, "ICD-10-CM", ICD10CM_LICENCE)


def _icd10cm_codes(prefixes: Sequence[str], max_characters: int | None) -> list[str]:
    """The wanted codes of the table, in its order; UserError where no code begins with a prefix."""
    import simple_icd_10_cm as table

    wanted = tuple(prefix.upper().replace(".", "") for prefix in prefixes)
    codes = [code for code in dict.fromkeys(table.get_all_codes(True)) if table.is_category_or_subcategory(code)]
    for prefix in wanted:
        if not any(code.replace(".", "").startswith(prefix) for code in codes):
            raise UserError(f"prefixes: no ICD-10-CM code begins with '{prefix}'")
    bare = {code: code.replace(".", "") for code in codes}
    return [c for c in codes if len(bare[c]) <= (max_characters or 7) and (not wanted or bare[c].startswith(wanted))]


def atc(
    files: Sequence[Path], columns: Mapping[str, str], prefixes: Sequence[str], source: str, licence: str
) -> Iterator[Document]:
    """One document a pharmacological subgroup of ATC (level 3): where it stands, its subgroups and its substances.

    Raises:
        UserError: a code that is none, or of another level than its row says; a prefix that no code begins with.
    """
    names = _read_atc(files, columns)
    wanted = tuple(prefix.upper() for prefix in prefixes)
    for prefix in wanted:
        if not any(code.startswith(prefix) for code in names):
            raise UserError(f"prefixes: no ATC code begins with '{prefix}'")
    for group in sorted(code for code in names if ATC_LEVELS[len(code)] == 3):
        if wanted and not group.startswith(wanted):
            continue
        places = [names[group[:length]] for length in (3, 1) if group[:length] in names]
        lines = [f"ATC group {group}: {names[group]}."]
        lines += [f"It belongs to {', in '.join(places)}."] if places else []
        for code in sorted(code for code in names if code.startswith(group) and code != group):
            kind = "group" if len(code) == 5 else "code"
            of = f" ({names[code[:5]]})" if len(code) == 7 and code[:5] in names else ""
            lines.append(f"ATC {kind} {code}: {names[code]}{of}.")
        yield Document(f"atc-{group}", names[group], "\n".join(lines), source, licence)


def _read_atc(files: Sequence[Path], columns: Mapping[str, str]) -> dict[str, str]:
    """Names by code. A code has a row for each way of giving it, all under one name."""
    code_column, name_column = columns.get("code", "code"), columns.get("name", "name")
    level_column = columns.get("level", "level")
    names: dict[str, str] = {}
    for path in files:
        for row in stream_rows(path):
            where = f"{path} row {row.number}"
            for column in (code_column, name_column):
                if column not in row.values:
                    raise UserError(
                        f"{where}: missing column '{column}' ({name_columns(row.values)}); say what it is called: "
                        "columns={code: ..., name: ...}"
                    )
            code, name = (str(row.values[column] or "").strip() for column in (code_column, name_column))
            level = str(row.values.get(level_column) or "").strip().removesuffix(".0")
            if len(code) not in ATC_LEVELS:
                raise UserError(f"{where}: '{code}' is no ATC code; codes have 1, 3, 4, 5 or 7 characters")
            if level and level != str(ATC_LEVELS[len(code)]):
                raise UserError(f"{where}: '{code}' is of level {ATC_LEVELS[len(code)]}, and the row says {level}")
            names.setdefault(code.upper(), name)
    return names
