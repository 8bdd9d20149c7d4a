"""The report's numbers are those of the rows, its page runs nothing of theirs, and coverage names every hole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars
import pytest

from mediflow.curation.coverage import describe_coverage, read_planned
from mediflow.curation.page import Described, histogram, json_for_script, page_data, sorted_reasons, write_page
from mediflow.taxonomy import DocumentType, TaskType, Taxonomy, load_taxonomy
from tests.toy_browser import NEEDS_BROWSER, open_browser, requests

EVIL = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>"
CELL = {"task_type": "a", "input_data": "note", "output_format": "json", "difficulty_level": "hard"}


def toy_taxonomy() -> Taxonomy:
    """Two tasks and two documents, one of which has two sections: 2 × 4 pairs."""
    tasks = {name: TaskType(name, name, "", (), (), {}) for name in ("a", "b")}
    sections: dict[str, dict[str, tuple[str, ...]]] = {"letter": {"one": ()}, "note": {"History": (), "Plan": ()}}
    return Taxonomy(tasks, {name: DocumentType(name, name, False, held) for name, held in sections.items()})


def row_of(decision: str = "kept", **changes: Any) -> dict[str, Any]:
    scores = {"quality": 3.0, "alignment": 3.0, "coherence": 3.0, "realism": 3.0, "difficulty": 3.0}
    lengths = {"instruction_words": 9, "input_words": 50, "output_words": 5}
    return {**CELL, "document": "note", "section": "", **scores, **lengths, "decision": decision} | changes


ROWS = [
    row_of(),
    row_of("low_quality", quality=1.4, input_words=10),
    row_of("low_quality", input_data="note: Plan"),
    row_of("near_duplicate", input_data="note: Plan"),
    row_of("near_duplicate", input_data="note: Plan"),
    row_of(task_type="b", input_data="letter", output_format="plain_text", quality=None),
]
PLANNED = [
    {**CELL, "planned": 3},
    {**CELL, "input_data": "note: Plan", "planned": 3},
    {**CELL, "input_data": "note: History", "planned": 2},
]


def described(**changes: Any) -> Described:
    rows = polars.DataFrame(ROWS, infer_schema_length=None)
    sample = {**row_of(), "id": "1", "instruction": EVIL, "input": "n " * 3000, "output": '{"dose": 1.0}'}
    points = polars.DataFrame({
        "x": [0.0, 2.0], "y": [1.0, 2.0], "task_type": ["a", "b"], "input_data": ["note", "letter"],
        "decision": ["kept", "low_quality"], "text": [EVIL, "x" * 300],
    })  # fmt: skip
    values: dict[str, Any] = {
        "title": f"A set {EVIL}", "rows": rows, "points": points, "samples": [sample],
        "coverage": describe_coverage(rows, PLANNED, toy_taxonomy()),
        "contamination": {"mednli": {"texts": 7, "ngram": 1}},
        "facts": {"simulated": True, "teachers": {EVIL: {"rows": 6, "kept": 2, "cost": 0.1}},
                  "verification": {"checked": 10, "contradicted": 1, "rows": 4}},
    }  # fmt: skip
    return Described(**(values | changes))


def test_coverage_is_over_the_whole_taxonomy_and_says_why_a_pair_is_empty() -> None:
    """Of 8 pairs two are filled; the others were dropped (most often why), not generated, or never planned."""
    found = describe_coverage(polars.DataFrame(ROWS, infer_schema_length=None), PLANNED, toy_taxonomy())
    assert (found["planned"], found["generated"], found["kept"]) == (8, 6, 2)
    assert (found["pairs"], found["pairs_filled"]) == (8, 2)
    assert {(hole["task_type"], hole["input_data"]): hole["why"] for hole in found["holes"]} == {
        ("a", "letter"): "not planned",
        ("a", "note: Plan"): "near_duplicate",
        ("a", "note: History"): "not generated",
        ("b", "note"): "not planned",
        ("b", "note: Plan"): "not planned",
        ("b", "note: History"): "not planned",
    }
    assert found["axes"]["input_data"]["note: Plan"] == {"planned": 3, "generated": 3, "kept": 0}
    assert list(found["axes"]["input_data"]) == ["letter", "note", "note: History", "note: Plan"]
    assert found["lost"] == [{**CELL, "input_data": "note: Plan"}]
    assert sum(cell["generated"] for cell in found["cells"]) == 6


def test_the_whole_taxonomy_is_there_and_what_it_does_not_know_is_added() -> None:
    """Without a plan nothing is said to be planned; a task and a document of the user's own come last."""
    rows = polars.DataFrame([row_of(task_type="own", input_data="diary")])
    found = describe_coverage(rows)
    taxonomy = load_taxonomy()
    assert found["planned"] is None and found["pairs"] == (len(taxonomy.tasks) + 1) * (len(taxonomy.inputs()) + 1)
    assert list(found["axes"]["task_type"])[-1] == "own" and list(found["axes"]["input_data"])[-1] == "diary"
    assert len(found["holes"]) == found["pairs"] - 1 and {hole["why"] for hole in found["holes"]} == {"no row"}


def test_a_plan_is_read_by_the_names_of_rows_or_of_the_plan(tmp_path: Path) -> None:
    """Both kinds of cell give the same axes; a folder without the file has no plan."""
    named = {
        "task_type": "a",
        "document_type": "note",
        "section": "Plan",
        "output_format": "json",
        "difficulty": "hard",
    }
    cells = [{**named, "planned": 3}, {**CELL, "input_data": "note: Plan", "planned": 3}]
    (tmp_path / "coverage.json").write_text(json.dumps({"cells": cells}))
    one, other = read_planned(tmp_path / "coverage.json")
    assert one == other == {**CELL, "input_data": "note: Plan", "planned": 3}
    assert read_planned(tmp_path / "none.json") == []


def test_histograms_hold_every_value_once() -> None:
    """Scores have 15 bins from 1 to 4 and 1.4 stands at its edge; lengths end with all that is longer."""
    rows = described().rows
    quality = histogram(rows, "quality", ["a", "b"], score=True)
    assert quality is not None and quality["step"] == pytest.approx(0.2)
    assert [(at, count) for at, count in enumerate(quality["counts"][""]["all"]) if count] == [(2, 1), (10, 4)]
    assert sum(quality["counts"][""]["kept"]) == 1 and quality["medians"] == {"": 3.0, "a": 3.0}
    assert set(quality["counts"]) == {"", "a"}, "nobody judged the row of task b"
    lengths = histogram(rows, "input_words", ["a", "b"], score=False)
    assert lengths is not None and sum(lengths["counts"][""]["all"]) == 6 and lengths["step"] == 3.0
    assert (
        histogram(rows.with_columns(polars.lit(None, polars.Float64).alias("quality")), "quality", [], score=True)
        is None
    )


def test_the_numbers_of_the_page_are_those_of_the_rows() -> None:
    """In = kept + dropped, reasons in the reader's order; cells, holes and the map as given; long texts are cut."""
    data = page_data(described())
    assert (data["came"], data["kept"]) == (6, 2)
    assert data["drops"] == [
        {"group": "repeats", "reason": "near_duplicate", "rows": 2},
        {"group": "quality", "reason": "low_quality", "rows": 2},
    ]
    cells = [data["cells"][at : at + 7] for at in range(0, len(data["cells"]), 7)]
    assert [0, 1, 3, 1, 3, 2, 1] in cells and [1, 0, 3, 0, 0, 1, 1] in cells and len(cells) == 4
    assert (data["points"]["x"], data["points"]["y"]) == ([0, 10_000], [0, 5000])
    assert len(data["points"]["text"][1]) == 200
    (sample,) = data["samples"]
    assert len(sample["input"]) == 4000 and sample["cut"] == ["input"]
    assert sorted_reasons(["zebra", "private"]) == [("not fit to use", "private"), ("other", "zebra")]


def test_the_page_is_one_file_that_a_row_cannot_break_out_of(tmp_path: Path) -> None:
    """Equal contents give equal bytes; no address, no foreign script; markup of rows is escaped in JSON and title."""
    for name in ("one.html", "two.html"):
        write_page(tmp_path / name, described())
    page = (tmp_path / "one.html").read_text()
    assert page == (tmp_path / "two.html").read_text()
    assert page.count("<script") == 2 and "<img" not in page and "A set &lt;/script&gt;" in page
    assert json.loads(page.split('id="data">')[1].split("</script>")[0])["samples"][0]["instruction"] == EVIL
    assert "<" not in json_for_script({"a": "</script><!--", "b": "\u2028"})


def test_the_page_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """200,000 rows make a page as large as 2,000, and one row more is counted."""
    many = polars.DataFrame([row_of(quality=1 + at % 31 / 10) for at in range(1000)])
    sizes = []
    for times in (2, 200):
        rows = polars.concat([many] * times + [polars.DataFrame([row_of("private")])])
        path = tmp_path / f"{times}.html"
        coverage = describe_coverage(rows, (), toy_taxonomy())
        write_page(path, described(rows=rows, coverage=coverage))
        sizes.append(path.stat().st_size)
        assert page_data(described(rows=rows, coverage=coverage))["came"] == 1000 * times + 1
    assert sizes[1] - sizes[0] < 500


@NEEDS_BROWSER
def test_a_browser_shows_it_from_the_disk(tmp_path: Path) -> None:
    """Every section is drawn, a cell opens its samples, layers change the map, nothing of a row runs or is fetched."""
    write_page(tmp_path / "report.html", described())
    with open_browser(tmp_path / "profile") as browser:
        browser.get((tmp_path / "report.html").as_uri())

        def ask(script: str) -> Any:
            return browser.execute_script(f"return {script}")

        assert ask("[...document.querySelectorAll('section')].map(s => s.id)") == [
            "funnel", "scores", "lengths", "coverage", "samples", "map", "contamination", "facts", "teachers",
        ]  # fmt: skip
        assert ask("document.querySelectorAll('#coverage .cell').length") == 8
        assert ask("document.querySelectorAll('#coverage .full-hole').length") == 1
        assert ask("document.querySelectorAll('#coverage .hollow').length") == 1
        assert '"dose": 1.0' in ask("document.querySelector('#cell-samples .output').innerText")
        browser.execute_script("document.querySelector('#coverage .full-hole').dispatchEvent(new MouseEvent('click'))")
        assert "empty: near duplicate" in ask("document.querySelector('#coverage .chosen').innerText")
        browser.execute_script(
            "[...document.querySelectorAll('#coverage button')].find(b => b.innerText === 'JSON').click()"
        )
        assert ask("document.querySelectorAll('#coverage rect.cell[fill]').length") == 1
        assert EVIL in ask("document.querySelector('#samples .instruction').innerText")
        assert ask("window.hit === undefined && !document.querySelector('main img')")
        assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
        assert [url for url in requests(browser) if url.startswith(("http", "ws"))] == []
