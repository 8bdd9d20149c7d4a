"""Review: what is shown is what the files hold, what is decided is on the disk, and nobody else may decide."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mediflow.review import Config, allowed_hosts, check_host, listen, main
from mediflow.reviewing.app import Page, build_app
from mediflow.reviewing.decisions import Decisions
from mediflow.reviewing.index import find_sources, open_index
from mediflow.reviewing.store import Store
from mediflow.reviewing.text import diff_words
from medsmith.config import load
from medsmith.errors import UserError
from medsmith.records import read_jsonl
from tests.toy_review import Toy, toy_row, write_toy

TOKEN = "secret"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def store(toy: Toy, tmp_path: Path) -> Store:
    return Store(find_sources(toy.curated), Decisions(tmp_path / "decisions.jsonl"), tmp_path / "cache")


Ask = Callable[..., Any]


def client_of(store: Store, **changes: Any) -> TestClient:
    return TestClient(build_app(store, Page(TOKEN, **changes)), base_url="http://127.0.0.1:8000")


def post(client: TestClient, path: str, **values: Any) -> Any:
    return client.post(f"/{TOKEN}/api/{path}", json={"reviewer": "ann", **values})


def get(client: TestClient, path: str, reviewer: str = "ann", **values: Any) -> Any:
    response = client.get(f"/{TOKEN}/api/{path}", params={"reviewer": reviewer, **values})
    assert response.status_code == 200, response.text
    return response.json()


# --- what is shown ---


def test_filters_find_just_the_rows_that_pass(store: Store) -> None:
    """Each filter alone and two together give the rows that a reader of the files would count."""
    rows = [toy_row(number) for number in range(48)]
    found = store.find({"task_type": ["summarization"]}, "ann")
    # The near duplicate is a summarization where row 45 was one too.
    assert found["total"] == sum(row.task_type == "summarization" for row in rows[:45]) + 1 == 10
    assert store.find({"document": ["soap_note"], "output_format": ["json"]}, "ann")["total"] == sum(
        row.input_data == "soap_note: Plan" and row.output_format == "json" for row in rows
    )
    assert store.find({"quality_min": 2.2, "quality_max": 2.4}, "ann")["total"] == 8  # two instructions of four rows
    assert store.find({"decision": ["near_duplicate", "low_quality"]}, "ann")["total"] == 2
    assert store.find({"contradicted": "1"}, "ann")["rows"][0]["id"] == rows[3].id
    assert store.find({"text": "LISINOPRIL 40"}, "ann")["rows"][0]["id"] == rows[3].id
    assert store.find({"text": "LISINOPRIL 40", "decision": ["low_quality"]}, "ann")["total"] == 0
    assert store.find({"text": "of at least"}, "ann")["total"] == 1, "reasons are searched too"
    assert store.find({"text": "100%_"}, "ann")["total"] == 0, "no sign is a wildcard"
    assert store.find({}, "ann")["total"] == 48


def test_pages_and_orders_hold_every_row_once(store: Store) -> None:
    """Pages joined are all rows; the order by quality does not fall; a wrong order is a user's mistake."""
    for order in ("rank", "quality_low", "shuffled"):
        pages = [store.find({"order": order}, "ann", offset, 7)["rows"] for offset in range(0, 48, 7)]
        ids = [row["id"] for page in pages for row in page]
        assert len(ids) == len(set(ids)) == 48
        qualities = [row["quality"] for page in pages for row in page]
        assert (qualities == sorted(qualities)) is (order == "quality_low")
    with pytest.raises(UserError, match="order 'best' is none of"):
        store.find({"order": "best"}, "ann")


@pytest.mark.parametrize("joined", [True, False])
def test_a_row_comes_with_all_that_explains_it(toy: Toy, tmp_path: Path, joined: bool) -> None:
    """Texts, samples, facts, contradictions and provenance are those of just this row, from either kind of ledger."""
    folder = tmp_path / "folder"
    shutil.copytree(toy.curated, folder)
    if not joined:
        (folder / "ledger.parquet").unlink()
    store = Store(find_sources(folder), Decisions(tmp_path / "decisions.jsonl"), tmp_path / "cache")
    row = store.row(toy_row(3).id)
    assert row is not None
    assert (row["output"], row["teacher"], row["call_id"], row["checked"]) == (
        "Lisinopril 40 mg daily.",
        "phi-4",
        "call0",
        9,
    )
    more = store.details(row)
    assert [sample["quality"]["score"] for sample in more["judge"]["samples"]] == [2, 2, 2, 1, 1]
    assert more["facts"]["medications"] == [{"drug": "lisinopril", "dose": "20 mg", "frequency": "daily"}]
    assert more["contradictions"] == [{"kind": "dose", "said": "40 mg", "true": "20 mg", "where": "output"}]
    assert [line["status"] for line in more["ledger"]] == ["accepted"] and more["partner"] is None
    assert store.row("nobody") is None


def test_a_duplicate_stands_beside_its_partner(store: Store) -> None:
    """The partner is the row that it repeats, and the diff is the one word in which they differ."""
    (found,) = store.find({"decision": ["near_duplicate"]}, "ann")["rows"]
    row = store.row(found["id"])
    assert row is not None and row["similarity"] == pytest.approx(0.93)
    more = store.details(row)
    assert more["partner"]["id"] == toy_row(0).id
    assert [piece for piece in more["partner_diff"]["input"] if piece[0] != "="] == [("-", "two"), ("+", "three")]
    rejected = store.row(toy_row(1).id)
    assert rejected is not None
    changed = [piece for piece in store.details(rejected)["rejected_diff"] if piece[0] != "="]
    assert changed == [("-", "furosemide"), ("+", "torasemide")] and rejected["error_type"] == "drug"


def test_a_generate_folder_shows_what_could_not_be_used(toy: Toy, tmp_path: Path) -> None:
    """Accepted rows, repeats and failed calls are listed, each with text and reason; scores come from the judge."""
    store = Store(find_sources(toy.generated, judged=toy.judged), Decisions(tmp_path / "d.jsonl"), tmp_path / "cache")
    assert dict(store.facets["decision"]) == {"accepted": 48, "exact_duplicate": 1, "invalid_json": 1}
    (found,) = store.find({"decision": ["invalid_json"]}, "ann")["rows"]
    row = store.row(found["id"])
    assert row is not None
    assert (row["output"], row["detail"], row["call_id"]) == (
        "Sorry, I cannot write <that>.",
        "no JSON value",
        "call99",
    )
    assert [line["attempt"] for line in store.details(row)["ledger"]] == [2]
    (found,) = store.find({"decision": ["exact_duplicate"]}, "ann")["rows"]
    assert found["id"].startswith(f"{toy_row(0).id}~"), "a repeat is a row of its own"
    repeat = store.row(found["id"])
    assert repeat is not None and (repeat["input"], repeat["contradicted"]) == (toy_row(0).input, 1)
    assert store.details(repeat)["partner"]["id"] == toy_row(0).id
    assert [line["status"] for line in store.details(repeat)["ledger"]] == ["accepted", "rejected"]
    assert store.find({"quality_max": 1.6}, "ann")["total"] == 4


def test_the_index_is_built_once_and_again_where_the_folder_changed(tmp_path: Path) -> None:
    """The same files have the same index; a changed folder has a new one and the old one goes; no file is touched."""
    toy = write_toy(tmp_path / "toy", 12)
    before = {path: path.stat().st_mtime_ns for path in toy.curated.rglob("*")}
    one = open_index(find_sources(toy.curated), tmp_path / "cache")
    made = (one / "index.duckdb").stat().st_mtime_ns
    assert open_index(find_sources(toy.curated), tmp_path / "cache") == one
    assert (one / "index.duckdb").stat().st_mtime_ns == made
    assert before == {path: path.stat().st_mtime_ns for path in toy.curated.rglob("*")}
    (toy.curated / "dropped.parquet").unlink()
    two = open_index(find_sources(toy.curated), tmp_path / "cache")
    assert two != one and not one.exists()
    assert Store(find_sources(toy.curated), Decisions(tmp_path / "d"), tmp_path / "cache").total == 9


def test_folders_that_cannot_be_reviewed_are_named(toy: Toy, tmp_path: Path) -> None:
    """An unfinished folder, a judge folder, and a wrong judge folder are one line each."""
    for folder, words in ((tmp_path, "is not a finished run"), (toy.judged, "holds neither data/")):
        with pytest.raises(UserError, match=words):
            find_sources(folder)
    with pytest.raises(UserError, match="holds no scores.jsonl"):
        find_sources(toy.curated, judged=toy.generated)


def test_word_diffs_join_to_both_texts() -> None:
    """Left pieces are the first text, right pieces the second, also where nothing is alike; long texts go by lines."""
    for one, other in (("a b  c", "a x  c"), ("", "new"), ("same", "same"), ("w " * 5000, "w " * 4999 + "v ")):
        pieces = diff_words(one, other)
        assert "".join(text for sign, text in pieces if sign != "+") == one
        assert "".join(text for sign, text in pieces if sign != "-") == other
    assert diff_words("give 40 mg", "give 20 mg") == [("=", "give "), ("-", "40"), ("+", "20"), ("=", " mg")]


# --- the server ---


def test_decisions_pass_through_the_server(store: Store) -> None:
    """Accept, comment, a checked edit and undo change the row's standing, the list, the progress and the file."""
    client = client_of(store)
    ids = [row["id"] for row in get(client, "rows")["rows"]]
    done = post(client, "decisions", row_id=ids[0], decision="accept", comment="fine")
    assert (done.status_code, done.json()["mine"]["comment"], done.json()["progress"]) == (200, "fine", 1)
    wrong = post(client, "decisions", row_id=ids[1], decision="edit", edited={"output": "{"})
    assert wrong.status_code == 422 and "not valid JSON" in wrong.json()["error"]
    row = get(client, f"rows/{ids[2]}")
    same = {"output": row["output"], "input": row["input"] + " Seen twice."}
    done = post(client, "decisions", row_id=ids[2], decision="edit", edited=same)
    assert done.json()["mine"]["edited"] == {"input": same["input"]}, "what was not changed is not written"
    assert get(client, "rows", state="undecided")["total"] == 46
    assert get(client, "rows", state="accept")["rows"][0]["mine"] == "accept"
    assert get(client, "rows", state="commented")["total"] == 1
    back = post(client, "undo").json()
    assert (back["row_id"], back["mine"], back["progress"]) == (ids[2], None, 1)
    assert [line["decision"] for line in read_jsonl(store.decisions.path)] == ["accept", "edit", "skip"]
    assert post(client, "undo", reviewer="bob").status_code == 409


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"row_id": "nobody", "decision": "accept"}, 404),
        ({"decision": "maybe"}, 400),
        ({"decision": "accept", "reviewer": "  "}, 400),
        ({"decision": "accept", "reviewer": "a" * 61}, 400),
        ({"decision": "accept", "edited": {"output": "x"}}, 400),
        ({"decision": "edit", "edited": {"id": "x"}}, 400),
        ({"decision": "edit", "edited": {"output": 3}}, 400),
        ({"decision": "edit", "edited": {}}, 422),
        ({"decision": "accept", "comment": 3}, 400),
    ],
)
def test_wrong_decisions_are_refused_and_write_nothing(store: Store, values: dict[str, Any], status: int) -> None:
    """Each mistake gets its status and a sentence, and the journal stays empty."""
    response = post(client_of(store), "decisions", **{"row_id": toy_row(0).id, **values})
    assert (response.status_code, bool(response.json()["error"])) == (status, True)
    assert not store.decisions.path.exists()


def test_only_who_knows_the_address_may_ask(store: Store) -> None:
    """No token, a foreign Host, Origin or site, and a form's body are refused; the page itself is answered."""
    client = client_of(store, hosts=frozenset({"127.0.0.1:8000"}))
    good = {"row_id": toy_row(0).id, "reviewer": "ann", "decision": "accept"}
    assert client.get(f"/{TOKEN}/").status_code == 200
    assert client.get("/wrong/").status_code == 404 and client.get("/wrong/api/about").status_code == 404
    assert client.get("/", follow_redirects=False).status_code == 404
    assert client.get(f"/{TOKEN}/api/about", headers={"host": "evil.example:8000"}).status_code == 403
    decisions = f"/{TOKEN}/api/decisions"
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert client.post(decisions, json=good, headers=headers).status_code == 403, headers
    assert client.post(decisions, content=json.dumps(good), headers={"content-type": "text/plain"}).status_code == 415
    assert client.post(decisions, content=b"[1]", headers={"content-type": "application/json"}).status_code == 400
    assert not store.decisions.path.exists()
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert client.post(decisions, json=good, headers=own).status_code == 200


def test_pages_run_no_script_but_ours_and_no_other_file_is_served(store: Store) -> None:
    """Every answer forbids foreign scripts; the page has no inline one; paths do not lead out of the folder."""
    client = client_of(store)
    for path in ("", "app.js", "api/about", "nothing.js"):
        answer = client.get(f"/{TOKEN}/{path}")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = client.get(f"/{TOKEN}/").text
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page) == [""] and not re.search(r"\son\w+=|https?://", page)
    for path in ("..%2fpage.py", "%2e%2e/review_app.py", "style.css.bak"):
        assert client.get(f"/{TOKEN}/{path}").status_code == 404


def test_blind_reviewing_hides_others_until_one_has_judged(store: Store) -> None:
    """Neither row, list nor agreement page tells before; a skip opens nothing; a judgement does."""
    store.decisions.add(toy_row(0).id, "bob", "reject", comment="no")
    store.decisions.add(toy_row(1).id, "bob", "reject")
    store.decisions.add(toy_row(1).id, "cleo", "accept")
    client = client_of(store, blind=True)
    assert client.get(f"/{TOKEN}/api/rows", params={"reviewer": "ann", "state": "disagreement"}).status_code == 403
    for verdict, shown in (("skip", 0), ("accept", 1)):
        before = get(client, f"rows/{toy_row(0).id}")
        assert (before["others"], before["hidden"]) == ([], 1)
        done = post(client, "decisions", row_id=toy_row(0).id, decision=verdict).json()
        assert len(done["others"]) == shown
    assert [one["row_id"] for one in get(client, "agreement")["disagreements"]] == [toy_row(0).id]
    assert len(get(client_of(store), "agreement")["disagreements"]) == 2, "without blind mode both are shown"


def test_another_server_is_followed(store: Store, toy: Toy, tmp_path: Path) -> None:
    """What a second server writes is in the lists of the first."""
    client = client_of(store)
    assert get(client, "rows", state="disagreement")["total"] == 0
    other = Decisions(store.decisions.path)
    other.add(toy_row(5).id, "ann", "accept")
    other.add(toy_row(5).id, "bob", "reject")
    assert [row["id"] for row in get(client, "rows", state="disagreement")["rows"]] == [toy_row(5).id]
    other.undo("bob")
    assert get(client, "rows", state="disagreement")["total"] == 0


# --- the command ---


def test_other_machines_are_let_in_only_where_that_is_said(tmp_path: Path, toy: Toy) -> None:
    """Another address needs exposed=true; this machine's own needs nothing and answers to its names only."""
    with pytest.raises(UserError, match=r"host=0.0.0.0 lets other machines connect; add exposed=true"):
        main(Config(folder=toy.curated, out=tmp_path, host="0.0.0.0"))
    check_host("0.0.0.0", exposed=True)
    for host in ("127.0.0.1", "::1", "localhost"):
        check_host(host, exposed=False)
    assert "127.0.0.1:80" in allowed_hosts("127.0.0.1", 80) and "evil:80" not in allowed_hosts("127.0.0.1", 80)
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UserError, match="choose another port="):
            listen("127.0.0.1", taken.getsockname()[1])


def test_settings_are_checked() -> None:
    """A misspelt setting is refused by name, as in every command."""
    with pytest.raises(UserError, match="did you mean 'reviewer'"):
        load(Config, None, ["folder=x", "reviwer=ann"])


def test_the_command_serves_until_interrupted(toy: Toy, tmp_path: Path) -> None:
    """`medsmith mediflow.review FOLDER` prints an address that answers; Ctrl-C ends it with 0 and a journal."""
    words = ["mediflow.review", str(toy.curated), f"out={tmp_path}", "reviewer=ann"]
    server = subprocess.Popen(
        [sys.executable, "-m", "medsmith.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    line = server.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", line)
    assert line.startswith("48 rows to review at ") and address, line
    with urllib.request.urlopen(address[0] + "api/about") as answer:
        assert json.load(answer)["reviewer"] == "ann"
    server.send_signal(signal.SIGINT)
    out, errors = server.communicate(timeout=10)
    assert server.returncode == 0, errors
    assert out.splitlines()[-1] == str(tmp_path / toy.curated.name / "decisions.jsonl")
