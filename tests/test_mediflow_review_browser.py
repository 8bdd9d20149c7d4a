"""The review page in a real browser: read, filter, decide by key, edit, undo, agree; nothing leaves this machine.

REVIEW_SCREENSHOT=docs/review.png writes the picture of the README.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mediflow.review import allowed_hosts, listen
from mediflow.reviewing.app import Page, build_app
from mediflow.reviewing.decisions import Decisions
from mediflow.reviewing.index import find_sources
from mediflow.reviewing.store import Store
from medsmith.records import read_jsonl
from tests.toy_browser import NEEDS_BROWSER, forget, open_browser, requests
from tests.toy_review import Toy, evil_folder, toy_row, write_toy

pytestmark = NEEDS_BROWSER
EVIL = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'


class Site(NamedTuple):
    """A server in a thread and a browser that is looking at it."""

    browser: Any
    address: str
    store: Store


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def open_site(toy: Toy, browser: Any, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    import uvicorn

    running: list[tuple[Any, threading.Thread, Any]] = []

    def start(folder: Path = toy.curated, **page: Any) -> Site:
        store = Store(find_sources(folder), Decisions(tmp_path / "decisions.jsonl"), tmp_path / "cache")
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        app = build_app(store, Page("token", allowed_hosts("127.0.0.1", port), **({"reviewer": "ann"} | page)))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        running.append((server, thread, listener))
        address = f"http://127.0.0.1:{port}/token/"
        forget(browser)
        browser.get(address)
        return Site(browser, address, store)

    yield start
    # Away from the page, so that no connection keeps the server.
    browser.get("about:blank")
    for server, thread, listener in running:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
        listener.close()


def wait(site: Site, script: str, *values: Any) -> Any:
    """Wait until the script gives something true, and return it."""
    from selenium.webdriver.support.ui import WebDriverWait

    found: Any = WebDriverWait(site.browser, 10, 0.03).until(lambda one: one.execute_script(script, *values))
    return found


def press(site: Site, keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(site.browser).send_keys(keys).perform()


def press_control_enter(site: Site) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(site.browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()


def text(site: Site, selector: str) -> str:
    return str(site.browser.execute_script("return document.querySelector(arguments[0])?.innerText || ''", selector))


def on_row(site: Site, row_id: str) -> None:
    """Wait until the row is the one that is read."""
    wait(site, "return document.querySelector('.badges code')?.textContent === arguments[0]", row_id)


def ready(site: Site) -> None:
    wait(site, "return document.body.dataset.ready")


def choose(site: Site, name: str, value: str) -> None:
    """Set a filter as a user does, and wait for the list."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    site.browser.execute_script("window.mark = document.querySelector('#list').firstChild")
    Select(site.browser.find_element(By.CSS_SELECTOR, f"#filters select[name={name}]")).select_by_value(value)
    wait(site, "return document.querySelector('#list').firstChild !== window.mark && !/…/.test(count.textContent)")


def no_complaint(site: Site) -> None:
    """The console is clean, and every request went to this server."""
    assert [line["message"] for line in site.browser.get_log("browser") if line["level"] == "SEVERE"] == []
    asked = requests(site.browser)
    foreign = [url for url in asked if not url.startswith((site.address.removesuffix("token/"), "about:", "data:"))]
    assert len(asked) >= 8 and foreign == []


def decisions(site: Site) -> list[tuple[str, str]]:
    return [(line["row_id"][-2:], line["decision"]) for line in read_jsonl(site.store.decisions.path)]


def test_a_reviewer_works_by_keys(open_site: Callable[..., Site]) -> None:
    """Load, filter, accept, reject, go back, undo, search: the page, the address and the journal agree."""
    site = open_site()
    ready(site)
    assert text(site, "#count") == "48 rows" and text(site, "#progress-text") == "0 of 48 judged"
    choose(site, "task_type", "summarization")
    assert text(site, "#count") == "10 of 48 rows"
    on_row(site, toy_row(0).id)
    press(site, "a")
    on_row(site, toy_row(5).id)
    press(site, "r")
    on_row(site, toy_row(10).id)
    press(site, "k")
    on_row(site, toy_row(5).id)
    wait(site, "return document.querySelector('#do-reject.on')")
    press(site, "u")
    wait(site, "return document.querySelector('#do-reject') && !document.querySelector('#do-reject.on')")
    assert decisions(site) == [("00", "accept"), ("05", "reject"), ("05", "skip")]
    assert text(site, "#progress-text") == "1 of 48 judged"
    assert "task_type=summarization" in site.browser.current_url
    site.browser.refresh()
    ready(site)
    assert text(site, "#count") == "10 of 48 rows"
    on_row(site, toy_row(5).id)
    press(site, "/")
    press(site, "metformin\ue007")
    wait(site, "return count.textContent === '3 of 48 rows'")
    no_complaint(site)


def test_an_edit_is_checked_before_it_is_saved(open_site: Callable[..., Site]) -> None:
    """Broken JSON cannot be saved; mended it is, without a number rewritten; the row then shows it."""
    site = open_site()
    ready(site)
    site.browser.get(f"{site.address}#output_format=json")
    site.browser.refresh()
    ready(site)
    first = site.browser.execute_script("return document.querySelector('.item.current').dataset.id")
    on_row(site, first)
    press(site, "e")
    wait(site, "return document.querySelector('#validity.bad')?.textContent === 'nothing was changed'")
    field = "document.querySelector('textarea[name=output]')"
    put = f"{field}.value = arguments[0]; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))"
    site.browser.execute_script(put, '{"dose": 1.0,')
    wait(site, "return /not valid JSON/.test(document.querySelector('#validity').textContent)")
    assert site.browser.execute_script("return document.querySelector('#save-edit').disabled")
    site.browser.execute_script(put, '{"dose":1.0, "parts": [ ],"note": "a, b: {c}"}')
    wait(site, "return document.querySelector('#validity.good') && !document.querySelector('#save-edit').disabled")
    press_control_enter(site)
    wait(site, "return document.querySelector('.state.edit')")
    (line,) = read_jsonl(site.store.decisions.path)
    assert (line["row_id"], line["decision"]) == (first, "edit")
    assert line["edited"] == {"output": '{"dose": 1.0, "parts": [], "note": "a, b: {c}"}'}
    press(site, "k")
    on_row(site, first)
    assert '"dose": 1.0' in text(site, ".text.output") and "as you edited it" in text(site, ".answer").lower()
    press(site, "c")
    press(site, "checked against the chart")
    press_control_enter(site)
    wait(site, "return document.querySelector('#comment-box .comment')?.textContent === 'checked against the chart'")
    assert [line["comment"] for line in read_jsonl(site.store.decisions.path)] == ["", "checked against the chart"]
    site.browser.get_log("browser")
    press(site, "?")
    assert "undo my last decision" in text(site, "#keys")


def test_a_duplicate_its_reasons_and_the_agreement_are_shown(open_site: Callable[..., Site]) -> None:
    """Word diff, judge's rationales, contradicted facts, and the page of agreement with its way back to a row."""
    site = open_site()
    for number, verdict in ((0, "accept"), (1, "reject"), (2, "accept"), (3, "accept")):
        site.store.decisions.add(toy_row(number).id, "ann", "accept")
        site.store.decisions.add(toy_row(number).id, "bob", verdict)  # type: ignore[arg-type]
    site.store.follow()
    ready(site)
    choose(site, "decision", "near_duplicate")
    wait(site, "return document.querySelector('.partner del')?.textContent === 'two'")
    assert text(site, ".partner ins") == "three" and "similarity 0.93" in text(site, ".partner .label").lower()
    site.browser.find_element("id", "clear").click()
    wait(site, "return count.textContent === '48 rows'")
    # The number comes before the rows: keys count from the first of them.
    on_row(site, toy_row(0).id)
    press(site, "jjj")
    on_row(site, toy_row(3).id)
    assert text(site, "mark.wrong") == "40 mg" and "20 mg" in text(site, ".contradiction ins")
    assert "A value of the note is wrong." in text(site, "#box-judge")
    assert "bob accept" in " ".join(text(site, "#box-others").split())
    press(site, "g")
    wait(site, "return document.querySelector('#reviewers')")
    assert "3 of 4 rows (75 %)" in text(site, "#agreement .cards .card:nth-child(2)")
    assert site.browser.execute_script("return document.querySelectorAll('#differ tr').length") == 1
    site.browser.execute_script("document.querySelector('#differ tr').click()")
    on_row(site, toy_row(1).id)
    no_complaint(site)


def test_what_a_teacher_wrote_is_never_run(open_site: Callable[..., Site], tmp_path: Path) -> None:
    """Markup in texts, names, comments and reasons stays text in the list, the row, the editor and the agreement."""
    site = open_site(evil_folder(tmp_path / "evil", EVIL))
    site.store.decisions.add("bad", "ann", "accept", comment=EVIL)
    site.store.decisions.add("bad", EVIL[:59], "reject", comment=EVIL)
    site.store.follow()
    ready(site)
    press(site, "j")
    on_row(site, "bad")
    wait(site, "return document.querySelector('#box-others')")
    assert EVIL in text(site, ".text.output") and EVIL in text(site, ".text.input")
    press(site, "e")
    wait(site, "return document.querySelector('#validity')")
    press(site, "\ue00c")
    press(site, "g")
    wait(site, "return document.querySelector('#reviewers')")
    assert site.browser.execute_script("return window.hit === undefined")
    assert site.browser.execute_script("return document.querySelectorAll('main img, body script').length") == 0
    no_complaint(site)


def test_a_name_is_asked_once_and_others_stay_hidden(open_site: Callable[..., Site]) -> None:
    """Without a name the page asks; in blind mode another's decision shows after one's own."""
    site = open_site(reviewer="", blind=True)
    site.store.decisions.add(toy_row(0).id, "bob", "reject", comment="wrong")
    wait(site, "return document.querySelector('#ask[open]')")
    press(site, "\ue007")
    assert site.browser.execute_script("return document.querySelector('#ask').open"), "an empty name is none"
    press(site, "cleo\ue007")
    ready(site)
    wait(site, "return /Another reviewer/.test(document.querySelector('#hidden')?.textContent)")
    assert "bob" not in text(site, "#panel")
    press(site, "a")
    on_row(site, toy_row(1).id)
    press(site, "k")
    wait(site, "return /bob/.test(document.querySelector('#box-others')?.textContent)")
    assert text(site, "#who") == "cleo" and list(read_jsonl(site.store.decisions.path))[-1]["reviewer"] == "cleo"
    site.browser.refresh()
    ready(site)
    assert text(site, "#who") == "cleo"


@pytest.mark.skipif("REVIEW_SCREENSHOT" not in os.environ, reason="REVIEW_SCREENSHOT names no file")
def test_screenshot(open_site: Callable[..., Site]) -> None:
    """The picture of the README: a row with a contradicted fact, some rows already judged."""
    site = open_site()
    for number, verdict in ((0, "accept"), (1, "accept"), (2, "edit"), (4, "reject"), (5, "accept"), (6, "skip")):
        edited = {"output": "As the chart says."} if verdict == "edit" else {}
        site.store.decisions.add(toy_row(number).id, "ann", verdict, edited)  # type: ignore[arg-type]
    site.store.decisions.add(toy_row(3).id, "bob", "reject", comment="The chart says 20 mg.")
    site.store.follow()
    site.browser.get(f"{site.address}#row={toy_row(3).id}")
    site.browser.refresh()
    ready(site)
    on_row(site, toy_row(3).id)
    site.browser.save_screenshot(os.environ["REVIEW_SCREENSHOT"])
