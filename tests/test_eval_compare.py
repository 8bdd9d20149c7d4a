"""Two evaluations side by side: counts and p by hand, verdicts of planted gains, refusal of what cannot be compared."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.compare import Config, main, turned, verdict
from eval.engine import Reply
from eval.statistics import Difference
from medsmith.cli import main as command_line
from medsmith.errors import UserError
from medsmith.records import content_id, read_json, read_jsonl, write_json, write_jsonl
from tests.test_eval_run import FakeEngine, data, score

ENTRY = {
    "version": 1, "metric": "accuracy", "slice_mean": False, "settings": {"shots": 0}, "access": "open",
    "simulated": False,
}  # fmt: skip


def sample(key: str, score: float, **more: Any) -> dict[str, Any]:
    """One right-or-wrong item, as eval.run writes it."""
    row = {
        "benchmark": "medec", "id": key, "group": key, "slice": "", "weight": 1, "prompt": "?", "output": f"{score}",
        "answer": "1", "gold": "1", "score": score, "scores": {"accuracy": score}, "counts": {}, "unreadable": False,
    }  # fmt: skip
    return row | more


def evaluation(folder: Path, rows: list[dict[str, Any]], entries: dict[str, Any] | None = None, **top: Any) -> Path:
    """An evaluation, as eval.run writes it."""
    write_jsonl(folder / "samples.jsonl", rows)
    entries = entries or {"medec": {}}
    benchmarks = {name: ENTRY | entry for name, entry in entries.items()}
    write_json(folder / "result.json", {"model": folder.name, "protocol": "strict", "benchmarks": benchmarks, **top})
    return folder


def of_scores(scores: list[float], **more: Any) -> list[dict[str, Any]]:
    return [sample(str(n), score, **more) for n, score in enumerate(scores)]


def test_differences_and_changed_items(tmp_path: Path) -> None:
    """Of 20 items 6 turn right and none wrong: +0.3, p = 2/64 (McNemar); a lost item stands before the gained ones."""
    before = evaluation(tmp_path / "base", of_scores([0.0] * 19 + [1.0]))
    after = evaluation(tmp_path / "sft", of_scores([1.0] * 6 + [0.0] * 13 + [1.0]))
    out = main(Config(out=tmp_path / "out", before=before, after=after))
    found = read_json(out / "compare.json")
    entry = found["benchmarks"]["medec"]
    assert (found["before"], found["after"]) == ("base", "sft")
    assert (entry["before"], entry["after"]) == (0.05, 0.35)
    assert (entry["value"], entry["n"], entry["up"], entry["down"]) == (pytest.approx(0.3), 20, 6, 0)
    assert entry["p"] == pytest.approx(2 / 64) and entry["test"] == "McNemar, exact"
    assert entry["agreement"] == 14 / 20
    assert entry["low"] > 0 and entry["verdict"] == "real gain"
    assert entry["detectable"] == pytest.approx(0.3, abs=0.06)  # and never below 6 of 20 items

    worse = evaluation(tmp_path / "dpo", of_scores([1.0] * 6 + [0.0] * 14))
    out = main(Config(out=tmp_path / "two", before=before, after=worse))
    rows = list(read_jsonl(out / "changed.jsonl"))
    assert [(row["id"], row["change"]) for row in rows] == [("19", -1.0), *((str(n), 1.0) for n in range(6))]
    assert [row["turned"] for row in rows[:2]] == ["right → wrong", "wrong → right"]
    assert "| medec | 19 | right → wrong | 1 | 1.0 | 0.0 |" in (out / "compare.md").read_text()


def test_verdicts_of_planted_gains_survive_correction_or_not(tmp_path: Path) -> None:
    """Of three benchmarks one gains 10 of 40 items, one 6 (p = 1/32, too much by chance of three), one nothing."""
    rows: dict[str, list[dict[str, Any]]] = {"base": [], "sft": []}
    for name, gained in {"icd10cm": 10, "medec": 6, "mednli": 0}.items():
        for n in range(40):
            rows["base"].append(sample(str(n), 0.0, benchmark=name))
            rows["sft"].append(sample(str(n), float(n < gained), benchmark=name))
    entries: dict[str, Any] = {name: {} for name in ("icd10cm", "medec", "mednli")}
    folders = [evaluation(tmp_path / name, part, entries) for name, part in rows.items()]
    found = read_json(main(Config(out=tmp_path / "out", before=folders[0], after=folders[1])) / "compare.json")
    told = {name: (entry["verdict"], entry["p_corrected"]) for name, entry in found["benchmarks"].items()}
    assert told["icd10cm"] == ("real gain", pytest.approx(3 * 2 / 2**10))
    assert told["medec"] == ("weak gain", pytest.approx(2 * 2 / 2**6))
    assert told["mednli"] == ("noise", 1.0)
    assert found["benchmarks"]["mednli"]["detectable"] is None  # nothing differs: nothing is known of the spread

    average = found["average"]
    assert average["value"] == pytest.approx(16 / 120) and average["verdict"] == "real gain"
    assert (average["datasets_gained"]["value"], average["of"]) == (2, 3)
    assert average["cv"]["value"] == pytest.approx(0.12583 / (16 / 120), abs=1e-3)  # gains 0.25, 0.15, 0 by hand

    lenient = Config(out=tmp_path / "bh", before=folders[0], after=folders[1], correction="benjamini_hochberg")
    found = read_json(main(lenient) / "compare.json")
    assert found["benchmarks"]["medec"]["verdict"] == "real gain"  # 1/32 · 3/2 = 0.047
    assert "(Benjamini–Hochberg)" in (tmp_path / "bh" / "compare.md").read_text()


def test_pooled_and_secondary_metrics_are_compared_as_such(tmp_path: Path) -> None:
    """The headline is the F1 of summed counts, not the mean of items; a secondary metric has its own line."""
    rows = []
    for hits in ([1, 8], [2, 8]):
        part = [
            sample(str(n), found, scores={"exact": float(found == 8)}, counts={"f1_micro": [found, total, total]})
            for n, (found, total) in enumerate(zip(hits, [2, 8], strict=True))
        ]
        rows.append([row | {"id": f"{copy}-{row['id']}", "group": f"{copy}"} for copy in range(8) for row in part])
    metric = {"medec": {"metric": "f1_micro"}}
    folders = [evaluation(tmp_path / name, part, metric) for name, part in zip("ab", rows, strict=True)]
    entry = read_json(main(Config(out=tmp_path / "out", before=folders[0], after=folders[1])) / "compare.json")[
        "benchmarks"
    ]["medec"]
    assert (entry["before"], entry["after"]) == (0.9, 1.0)  # the mean of the items' F1s rises from 0.75
    assert (entry["n"], entry["groups"], entry["p"]) == (16, 8, 2 / 2**8)
    assert entry["verdict"] == "real gain"
    assert entry["secondary"]["exact"]["value"] == 0 and entry["secondary"]["exact"]["verdict"] == "noise"


def test_too_few_groups_are_not_tested(tmp_path: Path) -> None:
    """Forty items of five patients, all gained: p is 2/32 at best, so nothing is claimed; one group: no interval."""
    for patients, low in ((5, 1.0), (1, None)):
        groups = [str(n % patients) for n in range(40)]
        folders = [
            evaluation(tmp_path / f"{name}{patients}", [
                sample(str(n), score, group=group) for n, group in enumerate(groups)
            ])
            for name, score in (("a", 0.0), ("b", 1.0))
        ]  # fmt: skip
        out = main(Config(out=tmp_path / f"out{patients}", before=folders[0], after=folders[1]))
        entry = read_json(out / "compare.json")["benchmarks"]["medec"]
        assert (entry["value"], entry["verdict"], entry["p_corrected"], entry["low"]) == (1.0, "not tested", None, low)
        assert f"medec is not tested: of {patients} independent groups" in (out / "compare.md").read_text()


def test_texts_of_credentialed_sets_stay_out(tmp_path: Path) -> None:
    """A digest is never shown as a text; texts that an evaluation kept are copied only where asked for again."""
    hidden = {"prompt": "sha256:1f", "output": "sha256:2f", "gold": f"sha256:{content_id('secret')}"}
    kept = {"prompt": "secret", "output": "secret", "gold": "secret"}
    entry = {"medec": {"access": "credentialed"}}
    before = evaluation(tmp_path / "a", of_scores([0.0] * 8, **hidden), entry)
    for name, more in (("digests", hidden), ("texts", kept)):
        after = evaluation(tmp_path / name, of_scores([1.0] * 8, **more), entry)
        out = main(Config(out=tmp_path / f"out-{name}", before=before, after=after))
        written = "".join((out / file).read_text() for file in ("compare.json", "compare.md", "changed.jsonl"))
        assert "secret" not in written and "sha256" not in written and "(withheld)" in written
    out = main(Config(out=tmp_path / "asked", before=before, after=after, keep_text=True))
    first = next(read_jsonl(out / "changed.jsonl"))
    assert (first["before"], first["after"], first["gold"]) == (None, "secret", None)


def test_unlike_evaluations_are_refused(tmp_path: Path) -> None:
    """Other items, another gold, version, metric, settings, protocol, benchmark: each named in one line."""
    before = evaluation(tmp_path / "a", of_scores([0.0, 1.0]))
    right = of_scores([0.0, 1.0])
    unlike: list[tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any], str]] = [
        (right[:1], {}, {}, "medec: 1 items are in only one of the two"),
        ([right[0], right[1] | {"gold": "2"}], {}, {}, "medec: item '1' is another in the two"),
        ([right[0], right[1] | {"group": "0"}], {}, {}, "medec: item '1' is another in the two"),
        (right, {"medec": {"version": 2}}, {}, "medec: version is 1 in one and 2 in the other"),
        (right, {"medec": {"metric": "exact"}}, {}, "medec: metric is accuracy in one and exact in the other"),
        (right, {"medec": {"settings": {"shots": 3}}}, {}, "settings is"),
        (right, {"mednli": {}}, {}, "share no benchmark and no corpus"),
        (right, {}, {"protocol": "clue"}, "protocols strict and clue differ"),
    ]
    for number, (rows, entries, top, message) in enumerate(unlike):
        after = evaluation(tmp_path / str(number), rows, entries, **top)
        with pytest.raises(UserError, match=message):
            main(Config(out=tmp_path / f"out-{number}", before=before, after=after))
    (before / "result.json").rename(tmp_path / "kept.json")
    with pytest.raises(UserError, match=r"a is no evaluation \(no result.json\); give a folder of eval.run"):
        main(Config(out=tmp_path / "out-none", before=before, after=before))
    (tmp_path / "kept.json").rename(before / "result.json")
    old = evaluation(tmp_path / "old", right)
    write_json(old / "result.json", {"model": "old", "protocol": "strict", "benchmarks": {"medec": {"version": 1}}})
    with pytest.raises(UserError, match="an evaluation of an older version"):
        main(Config(out=tmp_path / "out-old", before=before, after=old))


def test_two_folders_on_the_command_line_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`medsmith eval.compare A B` compares B against A, into a folder named after both."""
    before = evaluation(tmp_path / "eval" / "base", of_scores([0.0] * 8))
    after = evaluation(tmp_path / "eval" / "sft", of_scores([1.0] * 8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    command_line(["eval.compare", str(before), str(after)])
    assert capsys.readouterr().out.strip() == "out/compare/base-sft"
    assert read_json(tmp_path / "out/compare/base-sft/compare.json")["benchmarks"]["medec"]["value"] == 1.0
    assert Config.model_validate({"before": "x/one", "after": "y/one"}).out == Path("out/compare/x-one-y-one")
    with pytest.raises(SystemExit):
        command_line(["eval.compare", str(before)])
    assert "'after': Field required" in capsys.readouterr().err


def test_the_terminal_shows_the_table_and_not_every_item(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Headlines and how to read them; secondary metrics and items are for the page."""
    folders = [evaluation(tmp_path / name, of_scores([score] * 8)) for name, score in (("a", 0.0), ("b", 1.0))]
    with caplog.at_level(logging.INFO):
        out = main(Config(out=tmp_path / "out", before=folders[0], after=folders[1]))
    assert "**Average**" in caplog.text and "- **#DG**" in caplog.text and "Items that changed" not in caplog.text
    assert "## Items that changed (8)" in (out / "compare.md").read_text()


def test_words() -> None:
    """A metric of which less is better gains by falling; a score that moves is higher or lower, not right."""
    fell = Difference(-0.1, -0.2, -0.05, 0.001, 100, 100, 0.1, "")
    assert [verdict(fell, 0.001), verdict(fell, 0.001, loss=True), verdict(fell, 0.2)] == [
        "real loss", "real gain", "weak loss",
    ]  # fmt: skip
    assert verdict(fell, None) == "not tested"
    assert [turned(1, 0), turned(0, 1), turned(0.2, 0.9), turned(1, 0.5)] == [
        "right → wrong", "wrong → right", "higher", "lower",
    ]  # fmt: skip


class Contradicting(FakeEngine):
    """Says CONTRADICTION, always readable."""

    def write(self, prompts: list[list[int]], max_new_tokens: int) -> list[Reply]:
        return [Reply("contradiction", 1, "stop") for _ in prompts]


def test_what_eval_run_writes_is_what_is_compared(tmp_path: Path) -> None:
    """Two engines on 90 pairs of a credentialed set: 27 right against 30, not one of them by both; no text anywhere."""
    settings = data(tmp_path / "data")
    folders = [
        score(tmp_path / engine.fingerprint, engine, settings | {"name": engine.fingerprint})
        for engine in (FakeEngine("neutral"), Contradicting("contradiction"))
    ]
    out = main(Config(out=tmp_path / "out", before=folders[0], after=folders[1]))
    found = read_json(out / "compare.json")
    mednli, icd10cm = found["benchmarks"]["mednli"], found["benchmarks"]["icd10cm"]
    assert (found["before"], found["after"]) == ("neutral", "contradiction")
    assert (mednli["value"], mednli["up"], mednli["down"]) == (pytest.approx(3 / 90), 30, 27)
    assert mednli["unreadable"] == {"before": 9, "after": 0} and mednli["verdict"] == "noise"
    assert mednli["p"] == pytest.approx(0.7914, abs=1e-4)  # 2 P(at most 27 of 57 even tosses)
    assert (icd10cm["value"], icd10cm["p"], icd10cm["agreement"]) == (0, 1, 1)
    assert found["average"]["value"] == pytest.approx(1.5 / 90) and found["average"]["datasets_gained"]["value"] == 1
    written = "".join((out / file).read_text() for file in ("compare.json", "compare.md", "changed.jsonl"))
    assert "Premise" not in written and "sha256" not in written and written.count("(withheld)") == 3 * 40
    record = read_json(out / "run.json")
    assert record["counts"] == {"items": 130, "changed": 57, "documents": 40}


def document(number: int, nll: float, **more: Any) -> dict[str, Any]:
    """One held-out document of 100 tokens and 400 bytes."""
    return {"corpus": "notes", "id": str(number), "nll": nll, "tokens": 100, "bytes": 400, **more}


def of_documents(folder: Path, documents: list[dict[str, Any]], rows: list[dict[str, Any]] | None = None) -> Path:
    """An evaluation with perplexities, and with benchmarks only where there are rows."""
    evaluation(folder, rows or [], perplexity={"notes": {}}, window=128)
    if not rows:
        write_json(folder / "result.json", read_json(folder / "result.json") | {"benchmarks": {}})
    write_jsonl(folder / "documents.jsonl", documents)
    return folder


def test_perplexities_are_compared_in_pairs(tmp_path: Path) -> None:
    """30 documents of very different difficulty, each 20 nats in 100 tokens easier: −0.2 a token, and no width at all.

    Unpaired, their spread of 100 nats would hide it. One that is as likely as before is noise.
    """
    hard = [document(n, 200 + 10 * n) for n in range(30)]
    easier = [document(n, 180 + 10 * n) for n in range(30)]
    before = of_documents(tmp_path / "base", hard)
    for name, documents, told in (("expert", easier, "real gain"), ("same", hard, "noise")):
        out = main(Config(out=tmp_path / f"to-{name}", before=before, after=of_documents(tmp_path / name, documents)))
        entry = read_json(out / "compare.json")["perplexity"]["notes"]
        assert (entry["unit"], entry["n"], entry["verdict"]) == ("token", 30, told)
    one = read_json(tmp_path / "to-expert" / "compare.json")
    entry = one["perplexity"]["notes"]
    assert [entry[key] for key in ("value", "low", "high")] == pytest.approx([-0.2] * 3)
    assert entry["before"] == pytest.approx(2.718281828 ** (sum(200 + 10 * n for n in range(30)) / 3000))
    assert one["average"] is None and one["benchmarks"] == {}
    page = (tmp_path / "to-expert" / "compare.md").read_text()
    assert "-0.200 (-0.200 to -0.200) a token" in page and "**Average**" not in page

    # Another tokenizer: 80 tokens a document. Then the unit is a byte, of which both have 400.
    other = of_documents(tmp_path / "other", [row | {"tokens": 80} for row in easier])
    out = main(Config(out=tmp_path / "to-other", before=before, after=other))
    entry = read_json(out / "compare.json")["perplexity"]["notes"]
    assert (entry["unit"], entry["value"]) == ("byte", pytest.approx(-20 / 400))


def test_corpora_and_benchmarks_are_corrected_as_one_family(tmp_path: Path) -> None:
    """Six items gained have p = 2/64 alone; beside a corpus that is asked too it is twice that: a weak gain."""
    documents = [document(n, 300.0 + n) for n in range(8)]
    rows = [of_scores([0.0] * 8), of_scores([1.0] * 6 + [0.0] * 2)]
    alone = [evaluation(tmp_path / f"alone-{n}", part) for n, part in enumerate(rows)]
    both = [of_documents(tmp_path / f"both-{n}", documents, part) for n, part in enumerate(rows)]
    told = {}
    for name, folders in (("alone", alone), ("both", both)):
        found = read_json(main(Config(out=tmp_path / name, before=folders[0], after=folders[1])) / "compare.json")
        entry = found["benchmarks"]["medec"]
        told[name] = entry["verdict"], round(entry["p_corrected"], 5)
    assert told == {"alone": ("real gain", 2 / 64), "both": ("weak gain", 4 / 64)}


def test_what_only_one_was_asked_is_named_and_in_no_average(tmp_path: Path) -> None:
    """Both were asked medec, one also mednli: the average is medec's, and the page says what is missing."""
    more = [sample(str(n), 1.0, benchmark="mednli") for n in range(8)]
    before = evaluation(tmp_path / "base", of_scores([0.0] * 8))
    after = evaluation(tmp_path / "sft", [*of_scores([1.0] * 8), *more], {"medec": {}, "mednli": {}})
    out = main(Config(out=tmp_path / "out", before=before, after=after))
    found = read_json(out / "compare.json")
    assert (found["only_before"], found["only_after"]) == ([], ["mednli"])
    assert list(found["benchmarks"]) == ["medec"] and (found["average"]["value"], found["average"]["of"]) == (1.0, 1)
    assert "Only sft was asked mednli." in (out / "compare.md").read_text()
    assert {row["benchmark"] for row in read_jsonl(out / "changed.jsonl")} == {"medec"}


def test_unlike_documents_are_refused(tmp_path: Path) -> None:
    """Another document, another text of one, another window, nothing shared: each in one line."""
    documents = [document(n, 300.0) for n in range(8)]
    before = of_documents(tmp_path / "a", documents)
    unlike = [
        (documents[:7], {}, "notes: 1 documents are in only one of the two"),
        ([*documents[:7], document(7, 300.0, bytes=399)], {}, "document '7' is another in the two"),
        (documents, {"window": 64}, "windows of 128 and of 64 tokens"),
        (
            documents,
            {"perplexity": {"other": {}}},
            r"share no benchmark and no corpus \(one has notes, the other other",
        ),
    ]
    for number, (rows, top, message) in enumerate(unlike):
        after = of_documents(tmp_path / str(number), rows)
        write_json(after / "result.json", read_json(after / "result.json") | top)
        with pytest.raises(UserError, match=message):
            main(Config(out=tmp_path / f"out-{number}", before=before, after=after))
