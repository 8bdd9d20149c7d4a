"""Overlap of training data with test sets: planted copies are found, by the right rule, and nothing else is."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars
import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from eval import contamination
from eval.benchmark import Item, ask
from eval.contamination import Config, Patients, flagged_rows, main, scan, summary, wanted_of
from eval.contamination_index import FLAGS, Place, Search, Wanted
from eval.contamination_scores import effect, read_effects, share_of
from eval.contamination_training import count_rows, read_rows, texts_of, training_files
from medsmith.blocklists import Blocked
from medsmith.config import load
from medsmith.decontaminate import Decontamination, find_contaminated
from medsmith.digests import output_digests
from medsmith.errors import UserError
from medsmith.records import read_json, read_jsonl, write_json, write_jsonl

VOCABULARY = [f"{a}{b}{c}" for a in ("bra", "cor", "dys", "gas") for b in "aeiou" for c in ("lin", "mat", "ron", "tis")]
BOILERPLATE = (
    "the patient was seen in clinic today and all questions were answered to the satisfaction of the patient and the "
    "family before leaving and they were told to call the office or come to the emergency department at once if the "
    "symptoms become worse or if there is any new pain or fever"
)


def words(count: int, seed: str) -> list[str]:
    """Words that no other seed's text shares in a row of three, but by rare chance."""
    rng = random.Random(seed)
    return [rng.choice(VOCABULARY) for _ in range(count)]


def note(number: int) -> str:
    return f"{BOILERPLATE} {' '.join(words(80, f'note {number}'))}"


def items_of(count: int, gold: str = "yes") -> list[Item]:
    """Notes of as many patients, all with one sentence of boilerplate."""
    return [Item(f"i{n}", f"p{n}", ask("Answer.", note(n)), gold) for n in range(count)]


def search_in(
    folder: Path, items: Sequence[Item], rows: Sequence[dict[str, Any]], patients: dict[str, str] | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of flagged.jsonl, and the entry of the one benchmark in contamination.json."""
    write_jsonl(folder / "training.jsonl", rows)
    sets = {"notes": list(items)}
    search = Search(list(wanted_of("notes", items)), FLAGS)
    people = Patients(sets, patients or {})
    scan([folder / "training.jsonl"], search, people)
    matches = search.matches()
    found = flagged_rows(search, matches, people, sets)
    ids = {row["id"] for row in found}
    return found, summary("notes", items, search, matches, people, ids, seed=0)


def rules_by_item(found: Sequence[dict[str, Any]]) -> dict[str, set[str]]:
    by_item: dict[str, set[str]] = {}
    for row in found:
        by_item.setdefault(row["id"], set()).add(row["rule"])
    return by_item


def test_each_planted_overlap_is_found_by_its_rule_and_no_clean_item_is(tmp_path: Path) -> None:
    """One whole copy, one inside a long document, one with a word in ten changed; boilerplate alone flags nobody."""
    long = [*words(900, "before"), *note(7).split(), *words(900, "after")]
    # Every tenth word: no 13-gram is left whole.
    own = note(11).removeprefix(BOILERPLATE).split()
    edited = [*BOILERPLATE.split(), *(word if place % 10 else f"new{place}" for place, word in enumerate(own))]
    rows: list[dict[str, Any]] = [
        {"id": "a", "instruction": "Read.", "input": note(3).upper() + "!"},
        {"id": "b", "text": " ".join(long)},
        {"id": "c", "messages": [{"role": "user", "content": " ".join(edited)}]},
        *({"id": f"control {n}", "text": f"{BOILERPLATE} {' '.join(words(80, f'control {n}'))}"} for n in range(60)),
        {"id": "template", "text": BOILERPLATE},
    ]
    found, entry = search_in(tmp_path, items_of(30), rows)
    both = {"ngram", "containment"}
    assert rules_by_item(found) == {"i3": both, "i7": both, "i11": {"containment"}}
    where = {(row["id"], row["rule"]): (row["row"], row["field"], row["amount"]) for row in found}
    assert where["i3", "containment"] == ("a", "input", 1.0)
    assert where["i7", "ngram"] == ("b", "text", 1.0)
    assert where["i11", "containment"][:2] == ("c", "messages.0.content")
    assert 0.6 < where["i11", "containment"][2] < 0.8
    assert entry["flagged"]["items"] == entry["question"]["seen"]["items"] == 3
    assert entry["flagged"]["value"] == pytest.approx(0.1)
    assert entry["flagged"]["low"] < 0.1 < entry["flagged"]["high"]
    assert (entry["question"]["judged"], entry["answer"]["too_short"], entry["both"]["items"]) == (30, 30, 0)


def test_a_frame_of_the_prompt_hides_no_copy(tmp_path: Path) -> None:
    """Sentences numbered for the question, and a label before it, are the note itself in one training text."""
    sentences = [" ".join(words(9, f"sentence {n}")) for n in range(8)]
    numbered = "TEXT: " + "\n".join(f"{n} {sentence}." for n, sentence in enumerate(sentences))
    items = [Item("a", "a", ask("Find the error.", numbered), "3"), *items_of(3)]
    found, _ = search_in(tmp_path, items, [{"text": f"Before it. {'. '.join(sentences)}. After it."}])
    assert {(row["id"], row["rule"], row["amount"]) for row in found if row["rule"] == "ngram"} == {("a", "ngram", 1.0)}


def test_a_short_text_counts_by_all_of_its_words_and_a_shorter_one_not_at_all(tmp_path: Path) -> None:
    """A ten-word answer is found inside a sentence; seven of its words are not it; three are never looked for."""
    gold = "start metformin twice daily and repeat the glycated haemoglobin soon"
    items = [
        Item("whole", "1", ask("?", "no"), gold),
        Item("cut", "2", ask("?", "no"), gold.replace("haemoglobin soon", "lipids never").replace("glycated", "other")),
        Item("short", "3", ask("?", "no"), "start metformin twice"),
    ]
    found, entry = search_in(tmp_path, items, [{"id": "t", "text": f"We said: {gold}. Start metformin twice."}])
    assert [(row["id"], row["side"], row["rule"], row["amount"]) for row in found] == [
        ("whole", "answer", "containment", 1)
    ]
    assert (entry["answer"]["judged"], entry["answer"]["too_short"], entry["question"]["too_short"]) == (2, 1, 3)


def test_what_many_documents_of_a_test_set_share_is_its_template(tmp_path: Path) -> None:
    """Of one question asked of 11 documents nothing can be told; asked of 10, it counts, for all ten."""
    question = "what are the most likely causes of the findings that the report describes"
    for documents, seen in ((11, 0), (10, 10)):
        items = [Item(f"{n}", f"document {n}", ask("?", question), "yes") for n in range(documents)]
        _, entry = search_in(tmp_path, items, [{"text": question}])
        assert entry["flagged"]["items"] == seen
        assert entry["question"]["template"] == documents - seen
    # Eleven questions on one document are one document.
    items = [Item(f"{n}", "one", ask("?", question), "yes") for n in range(11)]
    _, entry = search_in(tmp_path, items, [{"text": question}])
    assert entry["question"]["template"] == 0
    assert entry["flagged"]["items"] == 11


@given(seed=st.integers(0, 10**6), every=st.integers(3, 40), part=st.integers(5, 60))
@settings_of(max_examples=40, deadline=None, derandomize=True)
def test_what_curation_keeps_is_not_flagged(seed: int, every: int, part: int) -> None:
    """One screen: of rows that hold items whole, in part or edited, those that curation keeps flag no item here."""
    items = [" ".join(words(60, f"item {seed} {number}")) for number in range(4)]
    around = [" ".join(words(80, f"around {seed} {number}")) for number in range(5)]
    edited = " ".join(word if place % every else "other" for place, word in enumerate(items[1].split()))
    middles = [items[0], edited, " ".join(items[2].split()[:part]), " ".join(reversed(items[3].split())), ""]
    rows = [f"{before} {middle} {before[::-1]}" for before, middle in zip(around, middles, strict=True)]
    hits = find_contaminated(rows, [Blocked("set", str(n), text) for n, text in enumerate(items)], Decontamination())
    search = Search([Wanted("set", str(n), str(n), "question", text) for n, text in enumerate(items)], FLAGS)
    search.look(rows, [Place("", str(n), "") for n in range(len(rows))])
    seen = {match.text for match in search.matches() if search.flags(match)}
    assert 0 in seen and 0 in hits.hits and not {3, 4} & hits.hits.keys()
    assert seen <= hits.hits.keys()
    kept = [row for number, row in enumerate(rows) if number not in hits.hits]
    again = Search(search.wanted, FLAGS)
    again.look(kept, [Place("", "", "")] * len(kept))
    assert not any(map(again.flags, again.matches()))


def test_notes_of_test_patients_are_found_by_their_ids(tmp_path: Path) -> None:
    """Three notes of test patients in other words: flagged by id, with the field; patients apart stay clean."""
    rows = [
        {"id": f"t{n}", "subject_id": subject, "text": " ".join(words(50, f"rewritten {n}"))}
        for n, subject in enumerate(["p2", "p5", "p5", "p17", "q1", "q2"])
    ]
    found, entry = search_in(tmp_path, items_of(20), rows, {"notes": "subject_id"})
    assert {(row["id"], row["rule"], row["row"], row["amount"]) for row in found} == {
        ("i2", "patient", "t0", 1),
        ("i5", "patient", "t1", 2),
        ("i17", "patient", "t3", 1),
    }
    assert entry["patient"]["items"] == entry["flagged"]["items"] == 3
    _, unasked = search_in(tmp_path, items_of(20), rows)
    assert unasked["patient"] is None
    assert unasked["flagged"]["items"] == 0
    with pytest.raises(UserError, match=r"patients\.notes: no training row has a value of 'subject'; name another"):
        search_in(tmp_path, items_of(20), rows, {"notes": "subject"})


def test_batches_and_files_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row, or all at once: the same matches, amounts and places; a copy in two halves adds up."""
    halves = note(4).split()
    rows = [{"text": " ".join(halves[:60])}, {"text": " ".join(halves[48:])}, {"text": note(9)}, {"text": note(9)}]
    whole = search_in(tmp_path, items_of(12), rows)
    monkeypatch.setattr(contamination, "BATCH_ROWS", 1)
    assert search_in(tmp_path, items_of(12), rows) == whole
    amounts = {row["id"]: row["amount"] for row in whole[0] if row["rule"] == "ngram"}
    assert amounts == {"i4": 1.0, "i9": 1.0}
    assert {row["row"] for row in whole[0] if row["id"] == "i9"} == {"3"}


def test_of_a_folder_only_what_was_trained_on_is_read(tmp_path: Path) -> None:
    """A corpus' held-out part, dropped rows, ledgers and logs are no training data; every format gives its rows."""
    for name in ("train", "heldout", "dropped"):
        write_jsonl(tmp_path / "corpus" / f"{name}.jsonl", [{"id": name, "text": "a"}])
    assert [path.name for path in training_files(tmp_path / "corpus")] == ["train.jsonl"]
    (tmp_path / "curate" / "data").mkdir(parents=True)
    table = polars.DataFrame({"id": ["x", "y"], "messages": [[{"role": "user", "content": "hello"}]] * 2})
    table.write_parquet(tmp_path / "curate" / "data" / "train-0.parquet")
    table.write_parquet(tmp_path / "curate" / "ledger.parquet")
    (file,) = training_files(tmp_path / "curate")
    assert (file.name, count_rows(file)) == ("train-0.parquet", 2)
    assert [(row.id, dict(texts_of(row.values))["messages.0.content"]) for row in read_rows(file)] == [
        ("x", "hello"),
        ("y", "hello"),
    ]
    for name in ("b.txt", "a.md", ".hidden.txt", "log/c.txt", "README.md"):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(name)
    files = training_files(tmp_path / "texts")
    assert [(path.name, count_rows(path)) for path in files] == [
        ("README.md", 1), ("a.md", 1), ("b.txt", 1), ("c.txt", 1),
    ]  # fmt: skip
    assert [list(texts_of(row.values)) for row in read_rows(files[2])] == [[("text", "b.txt")]]
    for wrong, said in (("nowhere", "no such training data"), ("texts/log", "no training data that can be read")):
        (tmp_path / "texts" / "log" / "c.txt").unlink(missing_ok=True)
        with pytest.raises(UserError, match=said):
            training_files(tmp_path / wrong)


def sample(number: int, score: float, benchmark: str = "pubmedqa") -> dict[str, Any]:
    row = {"benchmark": benchmark, "id": f"{number}", "group": f"{number}", "slice": "", "counts": {}}
    return row | {"scores": {"accuracy": score}, "unreadable": False}


def test_the_score_without_flagged_items_by_hand() -> None:
    """Four flagged items all right, six clean ones half right: 0.7, 0.5 and a difference of -0.2 with its interval."""
    samples = [sample(n, 1.0 if n < 4 else float(n % 2)) for n in range(10)]
    found = effect(samples, {"0", "1", "2", "3"}, "accuracy", False, seed=0)
    assert (found["all"]["value"], found["all"]["n"]) == (pytest.approx(0.7), 10)
    assert (found["clean"]["value"], found["clean"]["n"]) == (pytest.approx(0.5), 6)
    assert found["difference"]["value"] == pytest.approx(-0.2)
    assert found["difference"]["low"] < -0.2 < found["difference"]["high"]
    nothing = effect(samples, set(), "accuracy", False, seed=0)
    assert nothing["clean"] == nothing["all"]
    assert set(nothing["difference"].values()) == {0.0}
    everything = effect(samples, {f"{n}" for n in range(10)}, "accuracy", False, seed=0)
    assert (everything["clean"], everything["difference"]) == (None, None)


def test_the_interval_of_a_share_goes_by_documents() -> None:
    """20 items of 4 documents, all or none flagged: Wilson's interval of 4, and none without width."""
    items = [Item(f"{n}", f"document {n % 4}", ask("?", "?"), "yes") for n in range(20)]
    none, every = share_of(set(), items, 0), share_of({f"{n}" for n in range(20)}, items, 0)
    assert (none["items"], none["value"], none["high"]) == (0, 0.0, pytest.approx(0.490, abs=1e-3))
    assert (every["items"], every["value"], every["low"]) == (20, 1.0, pytest.approx(0.510, abs=1e-3))
    some = share_of({f"{n}" for n in range(0, 20, 4)}, items, 0)
    assert (some["value"], some["low"]) == (0.25, 0.0)
    assert 0.25 < some["high"] <= 1.0


def pubmedqa(folder: Path) -> Path:
    """Six articles, five of them test items."""
    articles = {
        f"{n}": {"QUESTION": "Does it help?", "CONTEXTS": [" ".join(words(40, f"abstract {n}"))], "LONG_ANSWER": ""}
        for n in range(6)
    }
    folder.mkdir()
    answers = dict.fromkeys("01234", "yes")
    for name, article in articles.items():
        article["final_decision"] = answers.get(name, "no")
    (folder / "ori_pqal.json").write_text(json.dumps(articles))
    (folder / "test_ground_truth.json").write_text(json.dumps(answers))
    return folder


def evaluation(folder: Path, numbers: Sequence[int], protocol: str = "strict") -> Path:
    write_jsonl(folder / "samples.jsonl", [sample(n, float(n != 3)) for n in numbers])
    entry = {"metric": "accuracy"}
    write_json(folder / "result.json", {"model": "toy", "protocol": protocol, "benchmarks": {"pubmedqa": entry}})
    record: dict[str, Any] = {"key": folder.name, "command": "eval.run", "ancestry": [], "parents": {}, "counts": {}}
    record |= {"facts": {}, "config": {"out": str(folder)}, "identity": {"settings": {}}, "digest": ""}
    write_json(folder / "run.json", record)
    return folder


def settings(tmp_path: Path, **more: Any) -> Config:
    (tmp_path / "suite.yml").write_text("benchmarks:\n  pubmedqa: {}\n")
    base = {"out": tmp_path / "out", "suite": tmp_path / "suite.yml", "training": [tmp_path / "corpus.jsonl"]}
    return load(Config, base | {"benchmarks": {"pubmedqa": tmp_path / "pubmedqa"}} | more)


def test_the_command_from_files_to_files(tmp_path: Path) -> None:
    """One of five abstracts is in the corpus: counted, named by id and digest, scored without; twice the same bytes."""
    pubmedqa(tmp_path / "pubmedqa")
    abstract = " ".join(words(40, "abstract 2"))
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": "x", "text": "short"}, {"id": "pmid-2", "text": abstract}])
    scored = evaluation(tmp_path / "scored", range(5))
    out = main(settings(tmp_path, evaluations=[scored]))
    found = read_json(out / "contamination.json")
    assert (found["training"]["rows"], found["training"]["texts"]) == (2, 1)
    entry = found["benchmarks"]["pubmedqa"]
    assert (entry["items"], entry["flagged"]["items"], entry["question"]["containment"]) == (5, 1, 1)
    assert entry["question"]["ngram_share_at_least"] == {"0": 1, "0.2": 1, "0.5": 1, "0.8": 1}
    flagged = list(read_jsonl(out / "flagged.jsonl"))
    assert {(row["id"], row["row"], Path(row["file"]).name) for row in flagged} == {("2", "pmid-2", "corpus.jsonl")}
    (scores,) = found["evaluations"]
    assert (scores["all"]["value"], scores["clean"]["value"], scores["clean"]["n"]) == (0.8, 0.75, 4)
    page = (out / "contamination.md").read_text()
    assert "| pubmedqa | 5 | 1 | 20.0 % (3.6 to 62.4) | 1 of 5 | 0 of 0 | 0 |" in page
    assert "| toy | pubmedqa | accuracy | 80.0 %" in page
    copied = " ".join(abstract.split()[:5])
    assert all(copied not in path.read_text() for path in out.iterdir() if path.is_file())
    assert output_digests(main(settings(tmp_path, out=tmp_path / "again", evaluations=[scored]))) == output_digests(out)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """A misspelt rule, no training data, patients of another benchmark, an evaluation that does not belong."""
    pubmedqa(tmp_path / "pubmedqa")
    write_jsonl(tmp_path / "corpus.jsonl", [{"text": "short"}])
    with pytest.raises(UserError, match=r"unknown key 'rules\.ngram'; did you mean 'rules\.ngram_words'\?"):
        settings(tmp_path, rules={"ngram": 8})
    with pytest.raises(UserError, match="'training': .* at least 1 item"):
        settings(tmp_path, training=[])
    with pytest.raises(UserError, match=r"patients\.medec: the suite suite has no benchmark medec"):
        main(settings(tmp_path, patients={"medec": "id"}))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match=r"empty\.jsonl: no training row"):
        main(settings(tmp_path, training=[tmp_path / "empty.jsonl"]))
    items = {"pubmedqa": [Item("0", "0", ask("?", "?"), "yes")]}
    for folder, numbers, protocol, said in (
        ("other", [0], "clue", "evaluated under protocol clue, the suite has strict"),
        ("beyond", [0, 9], "strict", "pubmedqa has the item '9', the given data have not"),
    ):
        path = evaluation(tmp_path / folder, numbers, protocol)
        with pytest.raises(UserError, match=said):
            read_effects([path], items, {"pubmedqa": set()}, "strict", 0)
    with pytest.raises(UserError, match="evaluates none of medec; give an evaluation of these"):
        read_effects([evaluation(tmp_path / "none", [0])], {"medec": items["pubmedqa"]}, {"medec": set()}, "strict", 0)
