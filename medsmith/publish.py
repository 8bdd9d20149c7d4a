"""Publish a finished run folder: write its card from run.json, show what would go, upload once.

    medsmith publish out/embedded/align/dpo --dry-run
    HF_TOKEN=… medsmith publish out/embedded/align/dpo --repo me/medsmith-embedded

Never uploaded: journals of paid calls (`raw/`), logs, checkpoints, dropped and failed rows, hidden files, run.json
itself (it holds paths of this machine; `lineage.json` holds the rest of it). Refused: an unfinished run, a source
without a licence or under a data use agreement, a file that holds something like a secret.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsmith.digests import file_digest, output_digests
from medsmith.errors import UserError
from medsmith.hub import (
    ADAPTER,
    PUBLISHED,
    adapter_base,
    kind_of,
    portable_adapter,
    portable_recipe,
    write_card,
)
from medsmith.licences import check_licences, unlicensed_bases
from medsmith.records import read_json, write_json
from medsmith.run import is_intact, require_finished

PRIVATE_PARTS = {"raw", "log", "logs", "checkpoints"}
PRIVATE_FILE = re.compile(
    r"^(dropped|failed|mask)\b.*|.*journal.*|.*\.(log|pem|key|db|sqlite|sqlite-journal|partial)$|.*\.env$",
    re.IGNORECASE,
)
SECRET = re.compile(rb"\b(hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16})\b")
TEXT = {".json", ".jsonl", ".md", ".yml", ".yaml", ".txt", ".jinja", ".html", ".csv", ".py", ".toml"}
LINEAGE_KEYS = ("command", "key", "digest", "identity", "parents", "ancestry", "counts", "facts", "git", "versions")


@dataclass(frozen=True)
class Upload:
    """One file of the repository: from the folder, or made for it."""

    path: str
    source: Path | bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    @property
    def sha256(self) -> str:
        """The digest of the content."""
        return hashlib.sha256(self.source).hexdigest() if isinstance(self.source, bytes) else file_digest(self.source)


@dataclass(frozen=True)
class Publication:
    """What was, or in a dry run would be, published."""

    repo: str
    kind: str
    uploads: list[Upload]
    card: str
    state: str
    """`dry run`, `published`, or `already there`."""
    url: str = ""


def run(folder: Path, repo: str | None = None, dry_run: bool = False, private: bool = True) -> Publication:
    """Publish a run folder to the hub that HF_ENDPOINT names (default: huggingface.co); print what went.

    The same content to the same place a second time is not uploaded again: `published.json` beside run.json tells.

    Raises:
        UserError: unfinished, changed since, unlicensed, a secret inside, no repository named, or the hub refused.
    """
    record = require_finished(folder)
    if not is_intact(folder, record):
        raise UserError(
            f"{folder} was changed after its run finished; publish an untouched result, or run the step again"
        )
    if repo is None and not dry_run:
        raise UserError("no repository named; add --repo owner/name, or --dry-run to look first")
    if repo is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"'{repo}' is not a repository; write owner/name")
    kind = kind_of(folder)
    name = repo or f"your-name/medsmith-{folder.resolve().name}"
    card = write_card(folder, record, name, check_licences(record, str(folder)))
    uploads = collect(folder, record, card)
    if not dry_run and (bases := unlicensed_bases(record)):
        raise UserError(
            f"{folder} was made from the model '{bases[0]}', a plain folder without run.json: its licence is "
            f"not known; name the base by its hub id, or make it by a run that records its sources"
        )
    if not dry_run and (folder / ADAPTER).is_file() and adapter_base(folder) is None:
        raise UserError(
            f"{folder} is an adapter of a base that lies on this machine alone; publish the base first, or make the "
            f"adapter with the base's hub id"
        )
    if dry_run:
        publication = Publication(name, kind, uploads, card, "dry run")
    else:
        publication = _publish(folder, Publication(name, kind, uploads, card, "published"), private)
    print(describe(publication, folder))
    return publication


def collect(folder: Path, record: dict[str, Any], card: str) -> list[Upload]:
    """Every file that goes, in name order; the card and the lineage are made here.

    Raises:
        UserError: a text file holds something that looks like a key or token.
    """
    made: dict[str, Path | bytes] = {
        name: folder / name
        for name in output_digests(folder)
        if not PRIVATE_PARTS & set(Path(name).parts[:-1]) and not PRIVATE_FILE.match(Path(name).name)
    }
    lineage = {key: record[key] for key in LINEAGE_KEYS if key in record}
    made["README.md"] = card.encode()
    made["lineage.json"] = (json.dumps(lineage, ensure_ascii=False, indent=1) + "\n").encode()
    # Both hold the paths of this machine; mergekit's own copy of the recipe adds nothing to ours.
    made.pop("mergekit_config.yml", None)
    if "recipe.yml" in made:
        made["recipe.yml"] = (portable_recipe(folder) + "\n").encode()
    if ADAPTER in made:
        made[ADAPTER] = (portable_adapter(folder) + "\n").encode()
    uploads = [Upload(path, source) for path, source in sorted(made.items())]
    for upload in uploads:
        if Path(upload.path).suffix in TEXT:
            content = upload.source if isinstance(upload.source, bytes) else upload.source.read_bytes()
            if found := SECRET.search(content):
                hint = found.group()[:4].decode()
                raise UserError(
                    f"{folder / upload.path} holds what looks like a secret ({hint}…); remove it and run again"
                )
    return uploads


def describe(publication: Publication, folder: Path) -> str:
    """What a person should see: in a dry run every file with its size and the card, else one line."""
    total = sum(upload.size for upload in publication.uploads)
    count = f"{len(publication.uploads)} files, {_size(total)}"
    if publication.state == "already there":
        return f"{folder} is already at {publication.url} with this very content; nothing to do"
    if publication.state == "published":
        return f"published {folder} ({count}) at {publication.url}"
    files = "\n".join(f"  {_size(upload.size):>10}  {upload.path}" for upload in publication.uploads)
    head = f"dry run: {folder} would go to {publication.repo} as a {publication.kind} ({count})"
    return f"{head}\n{files}\n\n{'-' * 30} README.md {'-' * 30}\n{publication.card}"


def _publish(folder: Path, wanted: Publication, private: bool) -> Publication:
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    except ImportError:
        raise UserError("huggingface_hub is not installed; pip install 'medsmith[hub]'") from None
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    content = {upload.path: upload.sha256 for upload in wanted.uploads}
    earlier = read_json(folder / PUBLISHED) if (folder / PUBLISHED).is_file() else {}
    place = {"endpoint": endpoint, "repo": wanted.repo, "type": wanted.kind}
    if earlier.get("files") == content and all(earlier.get(key) == value for key, value in place.items()):
        return Publication(wanted.repo, wanted.kind, wanted.uploads, wanted.card, "already there", earlier["url"])
    api = huggingface_hub.HfApi(endpoint=endpoint, library_name="medsmith")
    operations = [
        huggingface_hub.CommitOperationAdd(
            upload.path, upload.source if isinstance(upload.source, bytes) else str(upload.source)
        )
        for upload in wanted.uploads
    ]
    try:
        api.create_repo(wanted.repo, repo_type=wanted.kind, private=private, exist_ok=True)
        commit = api.create_commit(
            wanted.repo, operations, commit_message=f"medsmith {folder.resolve().name}", repo_type=wanted.kind
        )
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set; unset it to publish") from None
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{endpoint} refused {wanted.repo}: {reason}; set HF_TOKEN to a token that may write") from None
    except _connection_errors() as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"could not upload to {endpoint}: {reason}; check HF_ENDPOINT, HF_TOKEN and the network"
        ) from None
    part = "" if wanted.kind == "model" else "datasets/"
    url = f"{endpoint.rstrip('/')}/{part}{wanted.repo}"
    write_json(folder / PUBLISHED, {**place, "url": url, "commit": commit.oid, "files": content})
    return Publication(wanted.repo, wanted.kind, wanted.uploads, wanted.card, "published", url)


def _connection_errors() -> tuple[type[Exception], ...]:
    """What the hub's HTTP client raises where nobody answers; which client it is depends on the hub's version."""
    found: list[type[Exception]] = [OSError, ValueError]
    for module, name in (("httpx", "HTTPError"), ("httpx2", "HTTPError"), ("requests", "RequestException")):
        try:
            found.append(getattr(__import__(module), name))
        except ImportError:
            continue
    return tuple(found)


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
