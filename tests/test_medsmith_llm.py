"""Teachers as they are configured and opened: addresses, local servers, several at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from medsmith.chat import Lane, Teachers
from medsmith.config import identity, load
from medsmith.errors import UserError
from medsmith.licences import in_force
from medsmith.llm import Journal, TeacherConfig, is_loopback, open_teacher, open_teachers, run_calls
from medsmith.openai_chat import OpenAIChat
from tests.toy_teacher import LOCAL, Endpoint, ask, teacher


def test_the_id_holds_all_that_bears_on_the_answer() -> None:
    """Messages, model, serve, temperature, length, schema, n and sample change the id; the caller's note does not."""
    messages = [{"role": "user", "content": "q"}]
    base = teacher().request(messages)
    others = [
        teacher(model="other").request(messages),
        teacher(base_url=None, serve="x").request(messages),
        teacher().request([{"role": "user", "content": "r"}]),
        teacher().request(messages, temperature=1.0),
        teacher().request(messages, max_tokens=9),
        teacher().request(messages, response_schema={}),
        teacher().request(messages, n=2),
        teacher().request(messages, sample=1),
    ]
    assert len({base.id, *(other.id for other in others)}) == 9
    assert teacher(base_url="http://localhost:1/v1").request(messages, about={"cell": 1}).id == base.id


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("http://127.0.0.1:8/v1", True),
        ("http://localhost:8/v1", True),
        ("http://[::1]:8/v1", True),
        ("http://127.0.0.1.evil.org/v1", False),
        ("http://localhost.evil.org/v1", False),
        ("http://10.0.0.1/v1", False),
        ("https://api.example.org/v1", False),
    ],
)
def test_credentialed_data_stay_on_this_machine(
    address: str, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote address is refused before anything is sent, unless the agreement is said to allow it."""
    monkeypatch.setenv("A_KEY", "k")
    config = teacher(base_url=address, api_key_env="A_KEY")
    assert is_loopback(address) is local
    endpoint = Endpoint(config)
    with Journal(tmp_path / "j.jsonl") as journal, in_force({"credentialed": ["ward notes"]}):
        if local:
            run_calls(ask(config, 1), endpoint.chat, journal, 1, "test")
        else:
            with pytest.raises(UserError, match="allow_remote_credentialed=true"):
                run_calls(ask(config, 1), endpoint.chat, journal, 1, "test")
            with pytest.raises(UserError, match="use agreement"), open_teacher(config):
                pass
        assert len(endpoint.requests) == int(local)
        allowed = Endpoint(config.model_copy(update={"allow_remote_credentialed": True}))
        run_calls(ask(config, 2)[1:], allowed.chat, journal, 1, "test")
    assert len(allowed.requests) == 1


def test_a_served_teacher_lives_as_long_as_the_block() -> None:
    """The child's address is used, and its process is gone when the block ends."""
    code = "import json,os,sys; print(json.dumps({'base_url': f'http://127.0.0.1:{os.getpid()}/v1'}), flush=True)"
    config = TeacherConfig(serve=f'python -c "{code}; sys.stdin.read()"')
    with open_teacher(config) as chat:
        assert isinstance(chat, OpenAIChat)
        process = int(chat.base_url.split(":")[2].split("/")[0])
        os.kill(process, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_served_teacher_dies_with_a_killed_run() -> None:
    """kill -9 of the run: the server notices that its stdin closed, and is gone."""
    child = "import json,os,sys; print(json.dumps({'base_url': f'http://127.0.0.1:{os.getpid()}/v1'}), flush=True)"
    code = (
        "import sys, time\nfrom medsmith.llm import TeacherConfig, open_teacher\n"
        "with open_teacher(TeacherConfig(serve=sys.argv[1])) as chat:\n"
        "    print(chat.base_url, flush=True)\n"
        "    time.sleep(60)"
    )
    serve = f'python -c "{child}; sys.stdin.read()"'
    with subprocess.Popen([sys.executable, "-c", code, serve], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline().split(":")[2].split("/")[0])
        os.kill(process, 0)
        parent.kill()
    for _ in range(200):
        try:
            # A dead child of a dead parent may wait to be reaped by init; a zombie holds nothing.
            if Path(f"/proc/{process}/stat").read_text().split()[2] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.02)
    raise AssertionError("the server is still there")


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        ("no-such-command-here", "cannot start 'no-such-command-here': No such file"),
        ("python -c \"import sys; sys.exit('no model')\"", "it said: no model"),
        ("python -c \"print('ready')\"", "it said: ready"),
    ],
)
def test_a_server_that_does_not_start_says_why(serve: str, said: str) -> None:
    """The user sees the command's own last words."""
    with pytest.raises(UserError, match=said), open_teacher(TeacherConfig(serve=serve)):
        pass


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "exactly one of base_url"),
        ({"base_url": LOCAL, "serve": "x"}, "exactly one of base_url"),
        ({"base_url": "127.0.0.1:8000"}, "no address"),
        ({"base_url": "https://user:pass@host/v1"}, "no key or password"),
        ({"base_url": LOCAL, "budget": {"max_cost": 1}}, "needs price"),
        ({"base_url": LOCAL, "concurrency": 0}, "concurrency must be"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    """Each is refused with a reason; through the loader it is a one-line UserError."""
    with pytest.raises(ValidationError, match=said):
        TeacherConfig(**settings)
    with pytest.raises(UserError, match=said):
        load(TeacherConfig, dict(settings))


def test_how_calls_are_made_bears_no_identity() -> None:
    """Only the model and the server's command say what comes out."""
    assert identity(teacher(concurrency=3)) == {  # type: ignore[arg-type]
        "model": "m",
        "serve": None,
        "extra_body": {},
        "share": 1.0,
    }


def test_several_teachers_have_their_own_names_and_lanes() -> None:
    """The name is the model's, with a mark where serve or extra_body tells it apart; alike ones are refused."""
    plain, warm = teacher(concurrency=3), teacher(extra_body={"top_p": 0.5}, concurrency=5)
    assert plain.name == "m"
    assert warm.name.startswith("m#")
    assert warm.name != teacher(extra_body={"top_p": 0.6}).name
    assert warm.request([]).teacher == warm.name
    with open_teachers([plain, warm]) as chat:
        assert isinstance(chat, Teachers)
        assert {name: lane.concurrency for name, lane in chat.lanes.items()} == {"m": 3, warm.name: 5}
    with open_teachers([plain]) as chat:
        assert isinstance(chat, OpenAIChat)
    with pytest.raises(UserError, match="two teachers are both 'm'"), open_teachers([plain, teacher()]):
        pass


def test_a_journal_is_charged_to_the_teacher_who_spent_it(tmp_path: Path) -> None:
    """With budgets of three requests each, one teacher's calls leave the other's budget alone, also in a rerun."""
    one, two = (teacher(model=name, budget={"max_requests": 3}) for name in ("one", "two"))
    for wanted in ([*ask(one, 3), *ask(two, 1)], [*ask(one, 3), *ask(two, 3)]):
        ends = {config.name: Endpoint(config) for config in (one, two)}
        chat = Teachers({name: Lane(end.chat, 2) for name, end in ends.items()})
        with Journal(tmp_path / "j.jsonl") as journal:
            rows = run_calls(wanted, chat, journal, 2, "test")
        assert all(row["texts"] == ["yes"] for row in rows.values())
    assert [len(end.requests) for end in ends.values()] == [0, 2]
