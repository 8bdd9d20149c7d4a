"""MTS-Dialog: write one section of a clinical note from the conversation that it is about. The published CSV files.

Columns: ID, section_header, section_text, dialogue. The header is given (its twenty values are written out in the
prompt), so what is scored is the text. Two test sets are published: the first is read from a folder, the other one by
its file. Each file numbers its rows from 0; one conversation that stands there twice is a group.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from eval.benchmark import COMPOSITE, BadRow, Item, Loaded, Published, ask, leaving_out, loaded
from eval.parsing import parse_text
from eval.scorers import rouge
from eval.tables import file_notes, find_split, read_table
from medsmith.errors import quoted
from medsmith.records import content_id

VERSION = 1
METRIC = COMPOSITE
COMPONENTS = ("rouge1", "rouge2", "rougeL", "bertscore_f1")
BESIDE = ("concept_f1_dictionary",)
ACCESS = "open"
LICENCE = "CC BY 4.0"
SOURCE = "github.com/abachaa/MTS-Dialog"
MAX_NEW_TOKENS = 512

ID_COLUMN = "ID"
FILES = {"test": "MTS-Dialog-TestSet-1*.csv", "shots": "MTS-Dialog-TrainingSet.csv"}
PUBLISHED = {
    "MTS-Dialog-TrainingSet.csv": Published(1201, "65a28681dd59fc159681ea026e44610f2af7bc64a0e7f892d763eb03d9f503dc"),
    "MTS-Dialog-ValidationSet.csv": Published(100, "227206520c4534381c0d7fba6d3f09319a9af5a6d9603a93c0341af1198e3958"),
    "MTS-Dialog-TestSet-1*.csv": Published(200, "b4d38dd2c99b2e9860099abcf653f1e0f3e9b69f9fcc45be2a2699b37a4d2f37"),
    "MTS-Dialog-TestSet-2*.csv": Published(200, "226644466ed3af82382b327a3e684aab70aa605b96cfd93b04f584f1826ab1a6"),
}
SYSTEM = "Write the named section of the clinical note from this conversation."
# The normalised headers, as the data set's page spells them out.
HEADERS = {
    "FAM/SOCHX": "FAMILY HISTORY/SOCIAL HISTORY",
    "GENHX": "HISTORY OF PRESENT ILLNESS",
    "PASTMEDICALHX": "PAST MEDICAL HISTORY",
    "CC": "CHIEF COMPLAINT",
    "PASTSURGICAL": "PAST SURGICAL HISTORY",
    "ALLERGY": "ALLERGY",
    "ROS": "REVIEW OF SYSTEMS",
    "MEDICATIONS": "MEDICATIONS",
    "ASSESSMENT": "ASSESSMENT",
    "EXAM": "EXAM",
    "DIAGNOSIS": "DIAGNOSIS",
    "DISPOSITION": "DISPOSITION",
    "PLAN": "PLAN",
    "EDCOURSE": "EMERGENCY DEPARTMENT COURSE",
    "IMMUNIZATIONS": "IMMUNIZATIONS",
    "IMAGING": "IMAGING",
    "GYNHX": "GYNECOLOGIC HISTORY",
    "PROCEDURES": "PROCEDURES",
    "OTHER_HISTORY": "OTHER HISTORY",
    "LABS": "LABS",
}


def load(path: Path, split: str = "test") -> Loaded:
    """Read the conversations; a row without conversation or section text is left out."""
    file = find_split(path, FILES, split, SOURCE)
    rows = read_table(file, ("ID", "section_header", "section_text", "dialogue"))
    dropped: Counter[str] = Counter()
    items = []
    for row in rows:
        with leaving_out(dropped):
            name, header = str(row["ID"]).strip(), str(row["section_header"]).strip().upper()
            # Some published lines end with a space or a carriage return.
            dialogue, text = (
                "\n".join(map(str.strip, row[key].strip().splitlines())) for key in ("dialogue", "section_text")
            )
            if not dialogue or not text:
                dropped["no dialogue or section text"] += 1
                continue
            if header not in HEADERS:
                raise BadRow(
                    f"{file}: row {name} has the section header {quoted(header)}; there are {', '.join(HEADERS)}"
                )
            messages = ask(SYSTEM, f"SECTION: {HEADERS[header]}\nCONVERSATION:\n{dialogue}")
            items.append(Item(name, content_id(dialogue), messages, text))
    return loaded(items, dropped, file, file_notes({file: len(rows)}, PUBLISHED))


def parse(output: str, item: Item) -> str | None:
    """The whole output."""
    return parse_text(output)


def score(answer: str, item: Item) -> dict[str, float]:
    """ROUGE."""
    return rouge(answer, item.gold)
