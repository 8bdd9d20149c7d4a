"""Open a local web page on which people read rows, accept, reject, edit and comment them, and see how far they agree.

    medsmith mediflow.review out/mediflow/curate/small reviewer=ann

FOLDER is a curate folder or a generate folder. Decisions go to a journal that mediflow.curate reads (`decisions=`);
nothing else is written, and the page needs no network. Several people may review at once, on one server or on several
that share the journal. Ctrl-C ends it. For Argilla see mediflow.review_argilla.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import secrets
import socket
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from mediflow.reviewing.app import Page, build_app
from mediflow.reviewing.decisions import Decisions
from mediflow.reviewing.index import find_sources
from mediflow.reviewing.store import Store
from medsmith.command import run_command
from medsmith.config import Config as BaseConfig
from medsmith.config import execution
from medsmith.errors import UserError

LOG = logging.getLogger(__name__)
GRACE_SECONDS = 2


class Config(BaseConfig):
    """What is reviewed, by whom, where."""

    positional: ClassVar = ("folder",)

    folder: Path = Field(description="a folder of mediflow.curate or mediflow.generate")
    out: Path = execution(Path("out/mediflow/review"), "decisions go to a folder in here, named as the folder reviewed")
    decisions: Path | None = execution(None, "the journal of decisions (default: <out>/<folder>/decisions.jsonl)")
    generated: Path | None = execution(
        None, "the generate folder (default: the one that a curate folder was made from)"
    )
    judged: Path | None = execution(None, "the judge folder, for rationales (default: as for generated)")
    reviewer: str = execution("", "your name; the page asks for it where it is not given")
    blind: bool = execution(False, "hide what others decided of a row until you have decided")
    host: str = execution("127.0.0.1", "the address to listen on; another than this machine's own needs exposed=true")
    exposed: bool = execution(False, "let other machines connect: whoever knows the address can read and decide")
    port: int = execution(0, "the port; 0 takes a free one")
    open: bool = execution(False, "open the page in the browser")


def main(config: Config) -> Path:
    """Serve until Ctrl-C; return the journal of decisions."""
    check_host(config.host, config.exposed)
    sources = find_sources(config.folder, config.generated, config.judged)
    journal = decisions_path(config.folder, config.decisions, config.out)
    decisions = Decisions(journal)
    LOG.info("reading %s …", config.folder)
    store = Store(sources, decisions)
    with listen(config.host, config.port) as listener:
        port = listener.getsockname()[1]
        token = secrets.token_urlsafe(24)
        app = build_app(store, Page(token, allowed_hosts(config.host, port), config.reviewer, config.blind))
        address = f"http://{_bracketed(config.host)}:{port}/{token}/"
        print(f"{store.total:,} rows to review at {address}\ndecisions go to {journal}; Ctrl-C ends", flush=True)
        if config.open:
            import webbrowser

            webbrowser.open(address)
        serve(app, listener)
    return journal


def decisions_path(folder: Path, given: Path | None, out: Path) -> Path:
    """Where the decisions of a folder are: in one of its name, or, where another folder has it, with a hash behind.

    `reviewed.txt` beside the journal tells of which folder it is.

    Raises:
        UserError: `out` is a file.
    """
    if given is not None:
        return given
    if out.is_file():
        raise UserError(f"out={out} is a file; choose a folder for decisions as out=")
    reviewed = str(folder.resolve())
    short = hashlib.sha256(reviewed.encode()).hexdigest()[:8]
    for name in (folder.resolve().name, f"{folder.resolve().name}-{short}"):
        owner = out / name / "reviewed.txt"
        if not owner.is_file():
            owner.parent.mkdir(parents=True, exist_ok=True)
            owner.write_text(reviewed + "\n", encoding="utf-8")
        if owner.read_text(encoding="utf-8").strip() == reviewed:
            break
    return owner.with_name("decisions.jsonl")


def check_host(host: str, exposed: bool) -> None:
    """Refuse an address that other machines reach, unless that is wanted.

    Raises:
        UserError: see above.
    """
    if not exposed and not is_loopback(host):
        raise UserError(f"host={host} lets other machines connect; add exposed=true if that is meant")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allowed_hosts(host: str, port: int) -> frozenset[str]:
    """The Host headers that are answered; empty means any, where the names of this machine are not known."""
    if not is_loopback(host):
        return frozenset()
    return frozenset(f"{name}:{port}" for name in {_bracketed(host), "localhost", "127.0.0.1"})


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: the address is not ours or in use.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Now, so that the address answers as soon as it is printed.
        listener.listen(128)
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}; choose another port=") from None
    return listener


def serve(app: object, listener: socket.socket) -> None:
    """Answer until Ctrl-C or SIGTERM."""
    import uvicorn

    settings = uvicorn.Config(
        app, log_level="warning", lifespan="off", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS
    )
    try:
        uvicorn.Server(settings).run(sockets=[listener])
    except KeyboardInterrupt:
        # Raised again by uvicorn once it has ended in order: to end a review so is no failure.
        LOG.info("ended; what was decided is saved")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    run_command(main, Config)
