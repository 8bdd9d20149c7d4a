"""A toy generate, judge and curate folder, about invented patients, as the review page meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from medsmith import run
from medsmith.config import Config as BaseConfig
from medsmith.records import Instruction, read_jsonl, write_jsonl, write_parquet

CRITERIA = ("quality", "alignment", "coherence", "realism", "difficulty")
PATIENTS = (
    ("62-year-old man", "substernal chest pain for two days", "type 2 diabetes mellitus", "metformin", "1000 mg",
     "twice daily", "troponin I", "0.42", "ng/mL", "ST depression in V4 to V6", "NSTEMI"),
    ("71-year-old woman", "dyspnea on exertion and orthopnea", "heart failure with reduced ejection fraction",
     "furosemide", "40 mg", "daily", "BNP", "1840", "pg/mL", "bilateral pleural effusions",
     "acute decompensated heart failure"),
    ("34-year-old woman", "fever and productive cough", "asthma", "salbutamol", "100 mcg", "as needed", "CRP", "184",
     "mg/L", "consolidation in the left lower lobe", "community-acquired pneumonia"),
    ("58-year-old man", "right flank pain and hematuria", "hypertension", "lisinopril", "20 mg", "daily", "creatinine",
     "1.6", "mg/dL", "a 7 mm stone in the right ureter", "ureterolithiasis"),
    ("80-year-old woman", "a fall with left hip pain", "osteoporosis", "alendronate", "70 mg", "weekly", "hemoglobin",
     "9.8", "g/dL", "a displaced fracture of the left femoral neck", "left hip fracture"),
    ("47-year-old man", "fatigue and polyuria", "obesity", "atorvastatin", "40 mg", "nightly", "HbA1c", "9.4", "%",
     "a fatty liver", "newly diagnosed type 2 diabetes"),
)  # fmt: skip
TASKS = (
    ("summarization", "plain_text"), ("named_entity_recognition", "json"), ("classification", "json"),
    ("question_answering", "plain_text"), ("textual_entailment", "plain_text"),
)  # fmt: skip
INPUTS = ("discharge_summary", "admission_note: History of Present Illness", "soap_note: Plan", "radiology_report")
LEVELS = ("moderate", "hard", "very hard", "extreme")


SAMPLES = 5
SAYS = {
    "quality": ("A value of the note is wrong.", "Leaves out the laboratory value.", "Good; the history is thin.",
                "Accurate and complete; every value of the note is kept."),
    "alignment": ("Answers another question.", "Ignores the length asked for.", "Follows the format asked for.",
                  "Does just what the instruction asks."),
    "coherence": ("Contradicts itself.", "Jumps between problems.", "Reads well.", "Input and output fit together."),
    "realism": ("No clinician writes so.", "Too tidy a course.", "Plausible; rather plain.", "Reads like a chart."),
    "difficulty": ("One word to copy.", "One lookup.", "Needs a value and its unit.", "Needs several steps."),
}  # fmt: skip


def toy_scores(instruction: int) -> dict[str, list[int]]:
    """The judge's samples of one instruction; quality rises from 1.6 to 3.8 in steps of 0.2, then begins again."""
    sums = (8 + instruction % 12, 16, 18, 10 + instruction % 7, 12)
    return {
        name: [total // SAMPLES + (number < total % SAMPLES) for number in range(SAMPLES)]
        for name, total in zip(CRITERIA, sums, strict=True)
    }


class Made(BaseConfig):
    """A step with the inputs that a curate folder has."""

    title: str = "MediFlow, simulated"
    generated: Path | None = None
    judged: Path | None = None


class Toy(NamedTuple):
    """The three folders."""

    generated: Path
    judged: Path
    curated: Path


def toy_row(number: int, **changes: Any) -> Instruction:
    """Row `number`: patient, task, input and difficulty go round at different paces."""
    who, why, history, drug, dose, often, lab, value, unit, image, diagnosis = PATIENTS[number % len(PATIENTS)]
    task, form = TASKS[number % len(TASKS)]
    note = (
        f"HISTORY OF PRESENT ILLNESS\nThe patient is a {who} with a history of {history} who presents with {why}. "
        f"Symptoms began {number % 9 + 1} days before admission and have worsened since. The patient denies recent "
        f"travel, syncope and sick contacts.\n\nMEDICATIONS\n{drug} {dose} {often}\n\nLABORATORY\n{lab} {value} {unit} "
        f"(abnormal); white cell count {7 + number % 5}.{number % 10} x10^9/L.\n\nIMAGING\nShows {image}.\n\n"
        f"ASSESSMENT\n{diagnosis[0].upper()}{diagnosis[1:]}. Case {number:03}."
    )
    asks = {
        "summarization": "Summarize the note for the receiving physician in two sentences; keep doses and values.",
        "named_entity_recognition": "Extract every problem, medication and laboratory value of the note as JSON.",
        "question_answering": "Answer the question with what the note says, and nothing else.",
        "classification": "Name the specialty that should see this patient first, as JSON.",
        "textual_entailment": "Decide whether the note supports the statement: entailment, neutral or contradiction.",
    }
    said = {
        "summarization": f"A {who} with {history} presents with {why}; {lab} is {value} {unit} and imaging shows "
        f"{image}. Assessed as {diagnosis}; {drug} {dose} {often} is continued.",
        "named_entity_recognition": json.dumps({"entities": [{"text": history}, {"text": drug}, {"text": lab}]}),
        "question_answering": f"{drug} {dose} {often}.",
        "classification": json.dumps(
            {"label": "internal medicine", "reason": f"{diagnosis} with {lab} {value} {unit}"}
        ),
        "textual_entailment": "entailment",
    }
    values: dict[str, Any] = {
        "id": f"{number:016x}", "instruction": f"You are a careful clinical assistant. {asks[task]}", "input": note,
        "output": said[task], "task_type": task, "input_data": INPUTS[number % len(INPUTS)], "output_format": form,
        "difficulty_level": LEVELS[number // 3 % len(LEVELS)],
        **{name: sum(scores) / SAMPLES for name, scores in toy_scores(number // 4).items()},
    }  # fmt: skip
    return Instruction(**(values | changes))


def write_toy(home: Path, count: int = 48) -> Toy:
    """The folders: the last rows are dropped, one as a near duplicate of row 0, one as low in quality.

    Row 3 says a wrong dose, which the ledger marks; row 1 has a rejected answer; a failed call has only its line.
    """
    rows = [toy_row(number) for number in range(count)]
    rows[3] = toy_row(3, output="Lisinopril 40 mg daily.")
    rows[1] = toy_row(1, rejected_output=rows[1].output.replace("furosemide", "torasemide"), error_type="drug")
    generated = _generated(home / "small-generate", rows)
    judged = _judged(home / "small-judge", len(rows))
    kept, gone = rows[:-3], rows[-3:]
    gone[0] = toy_row(0, id=gone[0].id, input=rows[0].input.replace("two days", "three days"))
    folder = home / "small"
    with run.start(Made(out=folder, generated=generated, judged=judged), "mediflow.curate") as this:
        half = len(kept) // 2
        write_parquet(folder / "data" / "train-00000-of-00002.parquet", kept[:half])
        write_parquet(folder / "data" / "train-00001-of-00002.parquet", kept[half:])
        why: list[dict[str, Any]] = [
            {"reason": "near_duplicate", "detail": "", "of": rows[0].id, "similarity": 0.93},
            {"reason": "low_quality", "detail": "1.6 of at least 2.5", "of": "", "similarity": None},
            {"reason": "contaminated", "detail": "mednli by ngram", "of": "mednli/test.jsonl:5", "similarity": 1.0},
        ]
        _write_dropped(folder / "dropped.parquet", gone, why)
        _write_ledger(folder / "ledger.parquet", generated)
        for shard in (folder / "data").glob("*.parquet"):
            _add_facts(shard, rows[3].id)
        this.facts |= {"simulated": True}
        this.finish(**{"in": len(rows), "kept": len(kept), "dropped": len(gone)})
    return Toy(generated, judged, folder)


def _generated(folder: Path, rows: list[Instruction]) -> Path:
    with run.start(Made(out=folder), "mediflow.generate") as this:
        cell = ("task_type", "input_data", "output_format", "difficulty_level")
        wrong = [{"kind": "dose", "said": "40 mg", "true": "20 mg", "where": "output"}]
        parts: list[dict[str, Any]] = []
        ledger: list[dict[str, Any]] = []
        for number, row in enumerate(rows):
            about = {name: getattr(row, name) for name in cell}
            common = {"id": row.id, "call_id": f"call{number // 4}", "facts_id": f"p{number % 6}", "teacher": "phi-4"}
            found = wrong if number == 3 else []
            texts = {"instruction": row.instruction, "input": row.input, "output": row.output}
            checks = {"instruction_id": f"i{number // 4}", "checked": 9, "contradicted": len(found)}
            parts.append(common | about | texts | checks)
            ledger.append(
                common | about | {"number": number // 4, "seed": 0, "model": "phi-4", "attempt": 1, "round": 0}
                | {"schema_hash": "5f1c", "status": "accepted", "cost": 0.0004, "contradictions": found}
            )  # fmt: skip
        ledger.append(
            {"id": None, "call_id": "call99", "number": 99, "status": "failed", "reason": "invalid_json",
             "detail": "no JSON value", "text": "Sorry, I cannot write <that>.", "task_type": "summarization",
             "input_data": "triage_note",
             "output_format": "json", "difficulty_level": "hard", "teacher": "phi-4", "attempt": 2}
        )  # fmt: skip
        repeat = {name: parts[0][name] for name in ("instruction", "input", "output")}
        ledger.append(
            ledger[0]
            | {
                "status": "rejected",
                "reason": "exact_duplicate",
                "of": rows[0].id,
                "text": repeat,
                "contradictions": wrong,
            }
        )
        write_jsonl(folder / "instructions" / "part-00000.jsonl", parts[:20])
        write_jsonl(folder / "instructions" / "part-00001.jsonl", parts[20:])
        write_jsonl(folder / "ledger" / "part-00000.jsonl", ledger)
        facts = [
            {"id": f"p{number}", "age": int(one[0].split("-")[0]), "sex": one[0].rsplit(" ", 1)[1],
             "conditions": [{"name": one[2]}, {"name": one[10]}],
             "medications": [{"drug": one[3], "dose": one[4], "frequency": one[5]}],
             "labs": [{"name": one[6], "value": float(one[7]), "unit": one[8]}]}
            for number, one in enumerate(PATIENTS)
        ]  # fmt: skip
        write_jsonl(folder / "facts.jsonl", ({"facts_id": one["id"], "facts": one} for one in facts))
        this.facts |= {"simulated": True}
        return this.finish(rows=len(parts), failed=1)


def _judged(folder: Path, count: int) -> Path:
    with run.start(Made(out=folder), "mediflow.judge") as this:
        scores = []
        for number in range((count + 3) // 4):
            given = toy_scores(number)
            samples = [
                {
                    name: {"rationale": SAYS[name][given[name][turn] - 1], "score": given[name][turn]}
                    for name in CRITERIA
                }
                for turn in range(SAMPLES)
            ]
            mean = {name: sum(given[name]) / SAMPLES for name in CRITERIA}
            scores.append({"instruction_id": f"i{number}", "mean": mean, "samples": samples, "failed": 0})
        write_jsonl(folder / "scores.jsonl", scores)
        this.facts |= {"simulated": True}
        return this.finish(instructions=len(scores))


def _add_facts(path: Path, wrong: str) -> None:
    """The columns that a curate folder has beyond the published ones."""
    import polars

    contradicted = (polars.col("id") == wrong).cast(polars.Int32).alias("contradicted")
    polars.read_parquet(path).with_columns(polars.lit(9, polars.Int32).alias("checked"), contradicted).write_parquet(
        path
    )


def _write_ledger(path: Path, generated: Path) -> None:
    """As curate joins it: known columns, and what else the lines of generate hold as JSON in `more`."""
    import polars

    names = ("id", "call_id", "facts_id", "teacher", "status", "reason", "attempt", "seed", "cost")
    rows = list(read_jsonl(generated / "instructions" / "part-00000.jsonl"))
    rows += read_jsonl(generated / "instructions" / "part-00001.jsonl")
    instructions = {row["id"]: row["instruction_id"] for row in rows}
    lines = [
        {name: line.get(name) for name in names}
        | {"instruction_id": instructions.get(line["id"]), "edited_id": None}
        | {"more": json.dumps({"contradictions": line.get("contradictions", [])})}
        for line in read_jsonl(generated / "ledger" / "part-00000.jsonl")
    ]
    schema = {"edited_id": polars.String}
    polars.DataFrame(lines, schema_overrides=schema, infer_schema_length=None).write_parquet(path)


def _write_dropped(path: Path, rows: list[Instruction], why: list[dict[str, Any]]) -> None:
    import polars

    write_parquet(path, rows)
    reasons = polars.DataFrame(why, schema_overrides={"similarity": polars.Float64})
    polars.concat([polars.read_parquet(path), reasons], how="horizontal").write_parquet(path)


def evil_folder(folder: Path, evil: str) -> Path:
    """A curate folder of one row, `bad`, that holds `evil` wherever a text can stand."""
    names = ("instruction", "input", "output", "task_type", "input_data", "difficulty_level", "error_type")
    row = toy_row(0, id="bad", rejected_output=f"other {evil}", **dict.fromkeys(names, evil))
    with run.start(Made(out=folder, title=evil), "mediflow.curate") as this:
        write_parquet(folder / "data" / "train-00000-of-00001.parquet", [toy_row(0)])
        _write_dropped(
            folder / "dropped.parquet",
            [row],
            [{"reason": evil, "detail": evil, "of": toy_row(0).id, "similarity": 0.5}],
        )
        return this.finish(kept=1, dropped=1)
