import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from medsmith import publish, run
from medsmith.config import Config, ModelRef
from medsmith.errors import UserError
from medsmith.hub import _licence
from medsmith.records import write_json, write_jsonl


class Step(Config):
    """A step with any number of inputs."""

    inputs: dict[str, Path] = {}
    base: ModelRef | None = None
    beta: float = 0.1


class Evaluation(Config):
    """What find_scores looks for: an input named `model`."""

    model: Path


class Hub:
    """A loopback hub: stores every commit and the names of the requests."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.repos: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, reply = hub.answer(self.path, body)
                content = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """The status and the JSON of one request."""
        self.requests.append(path)
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            self.repos[repo] = asked
            return 200, {"url": f"{self.url}/{repo}", "name": repo}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if "/commit/" in path:
            repo = "/".join(path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files.setdefault(repo, {})[value["path"]] = base64.b64decode(value["content"])
            return 200, {
                "success": True,
                "commitOid": "c" * 40,
                "commitUrl": f"{self.url}/{repo}/commit/c",
                "hookOutput": "",
            }
        return 404, {"error": path}


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.server.shutdown()
    server.server.server_close()


def publish_apart(hub_url: str, *arguments: str) -> str:
    """In a process of its own: the hub library reads HF_ENDPOINT and HF_HUB_OFFLINE when it is imported."""
    code = (
        "import sys; from pathlib import Path; from medsmith import publish\n"
        "from medsmith.errors import UserError\n"
        "try: publish.run(Path(sys.argv[1]), sys.argv[2])\n"
        "except UserError as error: print('error:', error)"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub_url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def finish(folder: Path, command: str, licences: dict[str, str], simulated: bool = True, **settings: Any) -> Path:
    with run.start(Step(out=folder, **settings), command) as this:
        this.facts["licences"] |= licences
        this.facts["simulated"] = simulated or this.facts["simulated"]
        write_jsonl(folder / "raw" / "calls.jsonl", [{"prompt": "paid for"}])
        write_jsonl(folder / "log" / "metrics.jsonl", [{"step": 1}])
        write_jsonl(folder / "dropped.jsonl", [{"text": "a benchmark's text"}])
        if command.startswith("mediflow"):
            write_jsonl(folder / "instructions.jsonl", [{"instruction": "List the problems."}])
        else:
            write_json(folder / "config.json", {"model_type": "phi3"})
            (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40 + str(folder).encode())
        if command.startswith("merge_recipes"):
            (folder / "recipe.yml").write_text(f"models:\n- model: {folder.parent}/pubmed\nmerge_method: breadcrumbs\n")
        return this.finish(rows=7)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Instructions and an expert, merged, then tuned; evaluations of the expert and of the tuned model beside them."""
    rows = finish(tmp_path / "curate", "mediflow.curate", {"clinic": "CC0-1.0"})
    expert = finish(tmp_path / "pubmed", "experts.train", {"articles": "CC-BY-4.0"}, base="microsoft/Phi-3.5-mini@abc")
    merged = finish(tmp_path / "merged", "merge_recipes.build", {}, inputs={"pubmed": expert})
    final = finish(tmp_path / "dpo", "align.dpo", {}, inputs={"model": merged, "data": rows}, beta=0.2)
    for model, value in ((expert, 0.25), (final, 0.75)):
        folder = tmp_path / "eval" / model.name
        with run.start(Evaluation(out=folder, model=model), "eval.run") as this:
            interval = {"value": value, "low": value - 0.1, "high": value + 0.1}
            benchmark = {**interval, "n": 40, "simulated": True}
            result = {"protocol": "strict", "benchmarks": {"mednli": benchmark}, "average": interval}
            write_json(folder / "result.json", result)
            this.finish(items=40)
    return final


def adapt(folder: Path, base: str) -> Path:
    """A finished adapter of a base."""
    with run.start(Step(out=folder), "merge_recipes.extract") as this:
        this.facts["licences"] |= {"articles": "CC-BY-4.0"}
        write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": base})
        (folder / "adapter_model.safetensors").write_bytes(bytes(99))
        return this.finish(weights=1)


def front_matter(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_what_lies_in_the_folder_is_what_the_hub_gets(chain: Path, hub: Hub) -> None:
    """Weights and configuration arrive byte for byte; logs, journals, dropped rows and run.json do not."""
    shown = publish_apart(hub.url, str(chain), "me/clinical")
    assert f"published {chain}" in shown
    got = hub.files["me/clinical"]
    assert sorted(got) == ["README.md", "config.json", "lineage.json", "model.safetensors"]
    assert got["model.safetensors"] == (chain / "model.safetensors").read_bytes()
    assert got["config.json"] == (chain / "config.json").read_bytes()
    assert hub.repos["me/clinical"]["visibility"] == "private"
    assert str(chain.parent).encode() not in got["lineage.json"] + got["README.md"]
    assert (
        hashlib.sha256(got["config.json"]).hexdigest()
        == json.loads((chain / "published.json").read_text())["files"]["config.json"]
    )


def test_the_same_content_is_not_uploaded_twice(chain: Path, hub: Hub) -> None:
    """A second publish of the same run to the same place sends nothing; to another place it does."""
    publish_apart(hub.url, str(chain), "me/clinical")
    sent = len(hub.requests)
    assert "nothing to do" in publish_apart(hub.url, str(chain), "me/clinical")
    assert len(hub.requests) == sent
    publish_apart(hub.url, str(chain), "me/other")
    assert hub.files["me/other"].keys() == hub.files["me/clinical"].keys()


def test_a_hub_that_does_not_answer_is_one_line(chain: Path) -> None:
    """Nobody listens there: the endpoint and the remedy in one line, nothing marked as published."""
    said = publish_apart("http://127.0.0.1:9", str(chain), "me/clinical")
    assert said.startswith("error: could not upload to http://127.0.0.1:9")
    assert not (chain / "published.json").exists()


def test_the_card_shows_the_whole_way(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Metadata, every ancestor with its parents, all licences, scores beside the ancestor that was scored, limits."""
    publication = publish.run(chain, dry_run=True)
    card = publication.card
    meta = front_matter(card)
    assert meta["base_model"] == ["microsoft/Phi-3.5-mini"]
    assert meta["base_model_relation"] == "finetune"
    assert meta["pipeline_tag"] == "text-generation"
    assert meta["license"] == "other"  # CC0-1.0 and CC-BY-4.0 went in
    assert {"simulated", "dpo"} <= set(meta["tags"])
    assert "| articles | CC-BY-4.0 |" in card and "| clinic | CC0-1.0 |" in card
    assert "| 2 | `merge_recipes.build` | merged | 1 | rows 7 |" in card
    assert "| 4 | `align.dpo` | this | 2, 3 | rows 7 |" in card
    assert "| **this model** | 75.0 (65.0 – 85.0) | 75.0 (65.0 – 85.0) |" in card
    assert "| pubmed (`experts.train`) | 25.0 (15.0 – 35.0) |" in card
    assert "mednli†" in card and "beta: 0.2" in card and "Not for clinical use" in card
    shown = capsys.readouterr().out
    assert "10.1 KiB" in shown or "KiB  model.safetensors" in shown
    assert "Not for clinical use" in shown


def test_a_card_shows_one_protocol_and_the_fullest_evaluation(chain: Path) -> None:
    """A smoke test of ten items under another protocol, which comes first by name, and an ancestor's own: left out."""
    for name, model, protocol, n in (
        *(("a", "dpo", "clue", 10), ("b", "dpo", "strict", 20)),
        *(("c", "merged", "clue", 40), ("d", "merged", "strict", 9)),
    ):
        with run.start(Evaluation(out=chain.parent / "eval" / name, model=chain.parent / model), "eval.run") as this:
            interval = {"value": 0.95, "low": 0.9, "high": 1.0}
            result = {"protocol": protocol, "benchmarks": {"mednli": {**interval, "n": n}}, "average": interval}
            write_json(this.folder / "result.json", result)
            this.finish(items=n)
    card = publish.run(chain, dry_run=True).card
    assert "| **this model** | 75.0 (65.0 – 85.0) | 75.0 (65.0 – 85.0) |" in card
    assert "| pubmed (`experts.train`) | 25.0" in card and "95.0" not in card


def test_a_data_sets_licence_is_the_stated_one() -> None:
    """What a person stated stands, a name that the hub does not know as other; without it several are other."""
    several = {"synthetic": "CDLA-Permissive-2.0", "ward": "proprietary"}
    assert _licence(several)["license_name"] == "several"
    assert _licence(several, "CC-BY-4.0") == {"license": "cc-by-4.0"}
    assert _licence(several, "ward-internal")["license_name"] == "ward-internal"
    assert _licence({"synthetic": "CDLA-Permissive-2.0"}) == {"license": "cdla-permissive-2.0"}


def test_a_dry_run_writes_nothing(chain: Path) -> None:
    """The folder is the same before and after."""
    before = sorted(path.name for path in chain.iterdir())
    publish.run(chain, dry_run=True)
    assert sorted(path.name for path in chain.iterdir()) == before


def test_a_merge_names_models_not_folders(chain: Path) -> None:
    """The recipe of a merge is shown and uploaded with the experts' names; the tags say mergekit."""
    publication = publish.run(chain.parent / "merged", "me/merged", dry_run=True)
    (recipe,) = [upload.source for upload in publication.uploads if upload.path == "recipe.yml"]
    assert recipe == b"models:\n- model: pubmed\nmerge_method: breadcrumbs\n"
    assert "- model: pubmed" in publication.card
    assert "mergekit" in front_matter(publication.card)["tags"]
    assert front_matter(publication.card)["license"] == "cc-by-4.0"
    assert "## Scores" not in publication.card  # it was not scored itself


def test_a_data_set_is_one(chain: Path) -> None:
    """Rows become a data set repository with a loadable configuration; dropped rows stay at home."""
    publication = publish.run(chain.parent / "curate", "me/rows", dry_run=True)
    assert publication.kind == "dataset"
    assert [upload.path for upload in publication.uploads] == ["README.md", "instructions.jsonl", "lineage.json"]
    meta = front_matter(publication.card)
    assert meta["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": ["instructions.jsonl"]}]}
    ]
    assert 'load_dataset("me/rows"' in publication.card


@pytest.mark.parametrize(
    ("licences", "message"),
    [
        ({}, "names no licence"),
        ({"a web site": ""}, "the source 'a web site' has no licence"),
        ({"a web site": "unknown", "articles": "MIT"}, "the source 'a web site' has no licence"),
        ({"mimic": "PhysioNet Credentialed Health Data License 1.5.0"}, "the source 'mimic' is under an agreement"),
    ],
)
def test_refuses_what_may_not_be_published(tmp_path: Path, licences: dict[str, str], message: str) -> None:
    """No licence, an unknown one, or a data use agreement: refused, and the source is named."""
    folder = finish(tmp_path / "model", "experts.train", licences)
    with pytest.raises(UserError, match=message):
        publish.run(folder, "me/model", dry_run=True)


def test_a_base_of_unknown_licence_is_shown_and_not_published(tmp_path: Path) -> None:
    """A base that is a plain folder: the dry run's card says that its licence is not known, the upload is refused."""
    (tmp_path / "phi").mkdir()
    (tmp_path / "phi" / "model.safetensors").write_text("weights")
    folder = finish(tmp_path / "expert", "experts.train", {"articles": "MIT"}, base=tmp_path / "phi")
    assert "| base model phi | **not known**" in publish.run(folder, dry_run=True).card
    with pytest.raises(UserError, match="made from the model 'phi'"):
        publish.run(folder, "me/expert")


def test_refuses_what_is_unfinished_or_was_changed(tmp_path: Path, chain: Path) -> None:
    """Only a finished and untouched result is published."""
    (tmp_path / "half").mkdir()
    write_json(tmp_path / "half" / "started.json", {"identity": {}})
    with pytest.raises(UserError, match="was started and not finished"):
        publish.run(tmp_path / "half", "me/half", dry_run=True)
    (chain / "config.json").write_text("{}")
    with pytest.raises(UserError, match="was changed after its run finished"):
        publish.run(chain, "me/model", dry_run=True)


def test_refuses_a_secret(tmp_path: Path) -> None:
    """A token in a text file stops the upload and is not printed."""
    token = "hf_" + "a1B2" * 9
    with run.start(Step(out=tmp_path / "rows"), "mediflow.curate") as this:
        this.facts["licences"] = {"clinic": "CC0-1.0"}
        write_jsonl(tmp_path / "rows" / "rows.jsonl", [{"text": f"use {token}"}])
        this.finish(rows=1)
    with pytest.raises(UserError, match="looks like a secret") as caught:
        publish.run(tmp_path / "rows", "me/rows", dry_run=True)
    assert token not in str(caught.value)


def test_needs_a_repository(chain: Path) -> None:
    """Without --repo only a dry run is possible; a malformed name is refused."""
    with pytest.raises(UserError, match="--repo owner/name"):
        publish.run(chain)
    with pytest.raises(UserError, match="'clinical' is not a repository"):
        publish.run(chain, "clinical")


def test_adapter_names_its_base_by_where_others_find_it(chain: Path, hub: Hub, tmp_path: Path) -> None:
    """A hub id stays; a folder of this machine becomes the place where it was published, and else is no base at all."""
    far = publish.run(adapt(tmp_path / "far", "owner/base"), "me/far", dry_run=True)
    said = {upload.path: upload.source for upload in far.uploads}["adapter_config.json"]
    assert isinstance(said, bytes) and json.loads(said)["base_model_name_or_path"] == "owner/base"
    matter = front_matter(far.card)
    assert (matter["library_name"], matter["base_model"]) == ("peft", ["owner/base"])
    assert (matter["base_model_relation"], matter["tags"][-2:]) == ("adapter", ["lora", "peft"])

    near = adapt(tmp_path / "near", str(chain))
    shown = {upload.path: upload.source for upload in publish.run(near, "me/near", dry_run=True).uploads}
    assert str(tmp_path).encode() not in b"".join(source for source in shown.values() if isinstance(source, bytes))
    with pytest.raises(
        UserError, match="near is an adapter of a base that lies on this machine alone; publish the base"
    ):
        publish.run(near, "me/near")
    publish_apart(hub.url, str(chain), "me/clinical")
    published = publish.run(near, "me/near", dry_run=True)
    said = {upload.path: upload.source for upload in published.uploads}["adapter_config.json"]
    assert isinstance(said, bytes) and json.loads(said)["base_model_name_or_path"] == "me/clinical"
    assert front_matter(published.card)["base_model"] == ["me/clinical"]
