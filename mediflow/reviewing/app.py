"""The review page's server: static files and a small JSON interface, for those who know the address.

Every address begins with a random token. A request that another site could make is refused: a foreign Host or Origin, a
body that is not JSON. Nothing is loaded from elsewhere, and the pages may run no script but ours.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediflow.reviewing.agreement import agreement
from mediflow.reviewing.decisions import JUDGING, PARTS, VERDICTS
from mediflow.reviewing.index import CRITERIA
from mediflow.reviewing.store import ORDERS, PAGE, STATES, Store
from mediflow.reviewing.text import check_edit
from medsmith.errors import UserError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

ASSETS = Path(__file__).parent / "assets"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
LONGEST_BODY = 4 << 20
LONGEST_NAME = 60
MANY = ("task_type", "document", "input_data", "output_format", "difficulty_level", "decision")


@dataclass(frozen=True)
class Page:
    """What the server is told: its secret, the hosts that it answers to (none: any), and how reviewing goes."""

    token: str
    hosts: frozenset[str] = frozenset()
    reviewer: str = ""
    blind: bool = False


class Refusal(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def build_app(store: Store, page: Page) -> Starlette:
    """The ASGI application."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse, RedirectResponse, Response
    from starlette.routing import Route

    files = {path.name: path.read_bytes() for path in sorted(ASSETS.iterdir()) if path.suffix in TYPES}
    assert "index.html" in files, f"{ASSETS} lacks the page"

    def answer(work: Callable[[Store, Page, Mapping[str, Any]], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            try:
                guard(request, page)
                given = (
                    await read_body(request) if request.method == "POST" else dict(request.query_params.multi_items())
                )
                if request.method == "GET":
                    given |= {name: request.query_params.getlist(name) for name in MANY}
                given |= request.path_params
                return JSONResponse(await run_in_threadpool(work, store, page, given), headers=HEADERS)
            except Refusal as refusal:
                return JSONResponse({"error": str(refusal)}, refusal.status, headers=HEADERS)
            except UserError as error:
                return JSONResponse({"error": str(error)}, 400, headers=HEADERS)

        return respond

    async def static(request: Request) -> Response:
        try:
            guard(request, page)
        except Refusal as refusal:
            return Response(str(refusal), refusal.status, headers=HEADERS, media_type="text/plain")
        name = request.path_params.get("name") or "index.html"
        if name not in files:
            return Response("there is no such file", 404, headers=HEADERS, media_type="text/plain")
        kind = f"{TYPES[Path(name).suffix]}; charset=utf-8"
        return Response(files[name], headers={**HEADERS, "content-type": kind})

    async def slash(request: Request) -> Response:
        token = request.path_params["token"]
        return RedirectResponse(f"/{token}/") if same(token, page.token) else Response("no", 404)

    api = "/{token}/api"
    return Starlette(
        routes=[
            Route(f"{api}/about", answer(about)),
            Route(f"{api}/rows", answer(rows)),
            Route(f"{api}/rows/{{row_id}}", answer(row)),
            Route(f"{api}/agreement", answer(agree)),
            Route(f"{api}/check", answer(check), methods=["POST"]),
            Route(f"{api}/decisions", answer(decide), methods=["POST"]),
            Route(f"{api}/undo", answer(undo), methods=["POST"]),
            Route("/{token}/{name}", static),
            Route("/{token}/", static),
            Route("/{token}", slash),
        ]
    )


def guard(request: Request, page: Page) -> None:
    """Refuse who does not know the token, and what a page of another site makes a browser send."""
    host = request.headers.get("host", "")
    if page.hosts and host not in page.hosts:
        raise Refusal(403, f"this server does not answer as '{host}'")
    if not same(request.path_params["token"], page.token):
        raise Refusal(404, "there is nothing here; open the address that was printed")
    origin = request.headers.get("origin")
    if origin is not None and origin != f"{request.url.scheme}://{host}":
        raise Refusal(403, "a page of another site may not ask here")
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and (
        request.method != "GET" or "/api/" in request.url.path
    ):
        raise Refusal(403, "a page of another site may not ask here")
    if request.method == "POST" and request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise Refusal(415, "send JSON")


def same(one: str, other: str) -> bool:
    """Equal, found out in a time that tells nothing."""
    return hmac.compare_digest(one.encode(), other.encode())


async def read_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request that is not too long."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LONGEST_BODY:
            raise Refusal(413, f"more than {LONGEST_BODY} bytes")
    try:
        values = json.loads(body)
    except ValueError:
        raise Refusal(400, "not valid JSON") from None
    if not isinstance(values, dict):
        raise Refusal(400, "send a JSON object")
    return values


def about(store: Store, page: Page, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the page needs at its start."""
    store.follow()
    record = store.sources.record
    return {
        "title": record.get("config", {}).get("title") or store.sources.folder.name,
        "folder": str(store.sources.folder),
        "kind": store.sources.kind,
        "simulated": bool(record.get("facts", {}).get("simulated")),
        "total": store.total,
        "facets": store.facets,
        "criteria": CRITERIA,
        "states": STATES,
        "orders": list(ORDERS),
        "page": PAGE,
        "reviewer": page.reviewer,
        "blind": page.blind,
        "decisions": str(store.decisions.path),
        "progress": store.progress(),
    }


def rows(store: Store, page: Page, given: Mapping[str, Any]) -> dict[str, Any]:
    """A page of the list."""
    store.follow()
    filters: dict[str, Any] = {name: [one for one in given[name] if one] for name in MANY}
    filters |= {name: given.get(name) for name in ("state", "text", "order", "contradicted")}
    for name in CRITERIA:
        for side in ("min", "max"):
            if text := given.get(f"{name}_{side}"):
                filters[f"{name}_{side}"] = _number(f"{name}_{side}", text)
    reviewer = reviewer_of(given)
    if page.blind and filters["state"] == "disagreement":
        raise Refusal(403, "others' decisions are hidden in blind mode; see the agreement page")
    offset = int(_number("offset", given.get("offset") or 0))
    return {**store.find(filters, reviewer, max(0, offset)), "progress": store.progress().get(reviewer, 0)}


def row(store: Store, page: Page, given: Mapping[str, Any]) -> dict[str, Any]:
    """One row with all that is known of it."""
    store.follow()
    found = store.row(given["row_id"])
    if found is None:
        raise Refusal(404, "there is no such row")
    return {**found, **store.details(found), **standing(store, page, given["row_id"], reviewer_of(given))}


def standing(store: Store, page: Page, row_id: str, reviewer: str) -> dict[str, Any]:
    """My decision and the others'; in blind mode theirs only once I have judged."""
    held = store.decisions.of(row_id)
    mine = held.pop(reviewer, None)
    hidden = page.blind and (mine is None or mine.decision not in JUDGING)
    return {
        "mine": mine.line() if mine else None,
        "others": [] if hidden else [held[name].line() for name in sorted(held)],
        "hidden": len(held) if hidden else 0,
    }


def agree(store: Store, page: Page, given: Mapping[str, Any]) -> dict[str, Any]:
    """The agreement page; in blind mode without the rows that the reviewer has not judged."""
    store.follow()
    found = agreement({row_id: dict(held) for row_id, held in store.decisions.latest.items()})
    if page.blind:
        reviewer = reviewer_of(given)
        found["disagreements"] = [one for one in found["disagreements"] if reviewer in one["decisions"]]
    labels = store.labels([one["row_id"] for one in found["disagreements"]])
    found["disagreements"] = [{**one, **labels.get(one["row_id"], {})} for one in found["disagreements"]]
    return {**found, "blind": page.blind}


def check(store: Store, page: Page, given: Mapping[str, Any]) -> dict[str, Any]:
    """Whether an edit could be saved."""
    found, edited = _edit(store, given)
    checked = check_edit(found, edited)
    return {"faults": checked.faults, "repairs": checked.repairs}


def decide(store: Store, page: Page, given: Mapping[str, Any]) -> dict[str, Any]:
    """Save one decision; an edit only where its texts may stand."""
    reviewer = reviewer_of(given)
    if not reviewer:
        raise Refusal(400, "say who you are")
    verdict = given.get("decision")
    if verdict not in VERDICTS:
        raise Refusal(400, f"decision '{verdict}' is none of {', '.join(VERDICTS)}")
    found, edited = _edit(store, given)
    comment = given.get("comment") or ""
    if not isinstance(comment, str):
        raise Refusal(400, "a comment is a text")
    if verdict == "edit":
        edited, faults, _ = check_edit(found, edited)
        if faults:
            raise Refusal(422, "; ".join(faults))
    elif edited:
        raise Refusal(400, f"'{verdict}' changes no text; send 'edit'")
    store.decisions.add(found["id"], reviewer, verdict, edited, comment.strip())
    store.record(found["id"])
    return {**standing(store, page, found["id"], reviewer), "progress": store.progress().get(reviewer, 0)}


def undo(store: Store, page: Page, given: Mapping[str, Any]) -> dict[str, Any]:
    """Take the reviewer's last decision back."""
    reviewer = reviewer_of(given)
    one = store.decisions.undo(reviewer)
    if one is None:
        raise Refusal(409, "there is nothing to undo")
    store.record(one.row_id)
    back = {"row_id": one.row_id, "progress": store.progress().get(reviewer, 0)}
    return back | standing(store, page, one.row_id, reviewer)


def reviewer_of(given: Mapping[str, Any]) -> str:
    """The name that the request gives."""
    name = given.get("reviewer") or ""
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not name.isprintable():
        raise Refusal(400, f"a reviewer's name has at most {LONGEST_NAME} printable signs")
    return name.strip()


def _edit(store: Store, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    found = store.row(str(given.get("row_id")))
    if found is None:
        raise Refusal(404, "there is no such row")
    edited = given.get("edited") or {}
    if not isinstance(edited, dict) or any(
        name not in PARTS or not isinstance(text, str) for name, text in edited.items()
    ):
        raise Refusal(400, f"edited holds texts of {', '.join(PARTS)}")
    return found, edited


def _number(name: str, text: Any) -> float:
    try:
        return float(text)
    except ValueError:
        raise Refusal(400, f"{name}: '{text}' is no number") from None
