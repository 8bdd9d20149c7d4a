"""The mask doctor lets right masks pass, names the row of each planted fault, and keeps private texts out of files."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medsmith import access, masks, run
from medsmith.config import Config
from medsmith.errors import UserError
from medsmith.mask_page import for_terminal, pieces, render, to_html
from medsmith.masks import CHAT, CONVERSATIONS, DOCUMENTS, OUTPUTS, Row
from medsmith.packing import Blocks, Labelled, pack_rows


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from medsmith.models import load_tokenizer

    return load_tokenizer(tiny_model)


def trainer(rows: list[dict[str, Any]], collator: Any, batch: int = 2) -> Any:
    """What the doctor reads of a trainer."""
    return SimpleNamespace(
        train_dataset=rows, data_collator=collator, args=SimpleNamespace(per_device_train_batch_size=batch)
    )


def chat(tokenizer: Any, answer: str = "No fever.", note: str = "Fever?") -> dict[str, list[int]]:
    """A row as TRL prepares it: the answer and the end of its turn have labels."""
    turns = [
        {"role": "system", "content": "Answer the question."},
        {"role": "user", "content": note},
        {"role": "assistant", "content": answer},
    ]
    encoded = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = encoded["input_ids"], encoded["assistant_masks"]
    return {"input_ids": ids, "labels": [token if on else -100 for token, on in zip(ids, mask, strict=True)]}


def padded(tokenizer: Any) -> Any:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(tokenizer.pad_token_id)


def documents(tokenizer: Any, lengths: list[int], closed: bool = True) -> list[Labelled]:
    """Documents of so many tokens, each with the token that begins it and the one that ends it."""
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    found = []
    for number, length in enumerate(lengths):
        ids = [end, *(100 + (7 * number + place) % 200 for place in range(length - 2)), end if closed else 99]
        found.append(Labelled(ids, ids))
    return found


# --- what passes ------------------------------------------------------------------------------------------------------


def test_right_chat_rows_pass_and_three_unlike_ones_are_shown(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The share is counted without padding, and of forty rows the three kinds are shown, with their marks."""
    rows = [chat(tokenizer, note="Fever? " * (1 + n % 5)) for n in range(40)]
    labels = ["qa"] * 38 + ["summary", "coding"]
    share = masks.look(trainer(rows, padded(tokenizer)), tokenizer, CHAT, tmp_path, show=True, labels=labels)
    tokens = sum(len(row["input_ids"]) for row in rows)
    assert share == sum(label != -100 for row in rows for label in row["labels"]) / tokens
    pages = (tmp_path / "mask.txt").read_text().split("\n----\n")
    assert len(pages) == 3 and all(page.rstrip().endswith("⟦No fever.<|end|>⟧") for page in pages)
    told = capsys.readouterr().err
    assert [name for name in ("row 0, qa", "row 38, summary", "row 39, coding") if name not in told] == []
    assert "\x1b" not in told  # no terminal, no colours


def test_packed_documents_pass_with_and_without_flattening(tokenizer: Any, tmp_path: Path) -> None:
    """Blocks as rows and as TRL's flattened batch: all of each document but its first token is trained."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = pack_rows(documents(tokenizer, [9, 20, 14, 5, 11]), 32)
    flat = DataCollatorForLanguageModeling(tokenizer.pad_token_id, padding_free=True)
    for number, collator in enumerate((Blocks(tokenizer.pad_token_id), flat)):
        found = masks.collated(trainer(rows, collator))
        assert [row.lengths for row in found] == [row["seq_lengths"] for row in rows]
        assert sum(sum(row.trained) for row in found) == 9 + 20 + 14 + 5 + 11 - 5
        assert masks.look(trainer(rows, collator), tokenizer, DOCUMENTS, tmp_path, show=True, name=f"m{number}") == 1.0
    assert (tmp_path / "m0.txt").read_text() == (tmp_path / "m1.txt").read_text()


def test_pairs_are_read_as_two_rows_each(tokenizer: Any) -> None:
    """Of TRL's pairs both answers are rows, side by side, without the padding of the longer one."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    pair = {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9], "rejected_ids": [8, 10, 11]}
    rows = masks.collated(trainer([pair, pair], DataCollatorForPreference(0)), labels=["qa", "coding"])
    assert [(row.number, row.label, row.ids, sum(row.trained)) for row in rows] == [
        (0, "qa, chosen", [5, 6, 7, 8, 9], 2),
        (0, "qa, rejected", [5, 6, 7, 8, 10, 11], 3),
        (1, "coding, chosen", [5, 6, 7, 8, 9], 2),
        (1, "coding, rejected", [5, 6, 7, 8, 10, 11], 3),
    ]


def test_a_document_that_was_cut_ends_without_an_end(tokenizer: Any) -> None:
    """A piece as long as a block may stop in the middle; a shorter one may not."""
    rows = masks.collated(trainer(pack_rows(documents(tokenizer, [16], closed=False), 16), Blocks(0)))
    assert masks.examine(rows, tokenizer, DOCUMENTS, longest=16) == 1.0
    with pytest.raises(UserError, match=r"row 0 never trains <\|endoftext\|>, the end of a document"):
        masks.examine(rows, tokenizer, OUTPUTS, longest=32)


# --- what does not ----------------------------------------------------------------------------------------------------


def without_end(row: dict[str, Any], end: int) -> None:
    row["labels"] = [-100 if token == end else label for token, label in zip(row["input_ids"], row["labels"])]  # noqa: B905


def cut_short(row: dict[str, Any], end: int) -> None:
    place = row["input_ids"].index(end, -3)
    row |= {key: row[key][:place] for key in ("input_ids", "labels")}


def nothing(row: dict[str, Any], end: int) -> None:
    row["labels"] = [-100] * len(row["labels"])


def shifted(row: dict[str, Any], end: int) -> None:
    row["labels"] = [*row["labels"][1:], -100]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nothing, r"training row 30 trains on nothing: .*Answer the question"),
        (without_end, r"training row 30 never trains <\|end\|>, the end of a turn"),
        (cut_short, r"training row 30 never trains <\|end\|>.*raise max_tokens"),
        (shifted, r"labels are not to be shifted"),
    ],
)
def test_a_fault_in_one_row_of_many_is_found(
    tokenizer: Any, tmp_path: Path, spoil: Callable[[dict[str, Any], int], None], message: str
) -> None:
    """One spoilt row among forty ends the run in one line that names it; untouched, the forty pass."""
    rows = [chat(tokenizer) for _ in range(40)]
    spoil(rows[30], tokenizer.convert_tokens_to_ids("<|end|>"))
    with pytest.raises(UserError, match=message) as error:
        masks.look(trainer(rows, padded(tokenizer)), tokenizer, CHAT, tmp_path, show=True)
    assert "\n" not in str(error.value)


def test_an_implausible_share_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    """Rows trained whole are no chat rows with an answer, and rows with an answer only are no whole conversations."""
    right = [chat(tokenizer) for _ in range(4)]
    whole = [{"input_ids": row["input_ids"], "labels": list(row["input_ids"])} for row in right]
    with pytest.raises(UserError, match=r"9\d\.\d\d% of the tokens of 4 rows are trained; of assistant turns it is"):
        masks.look(trainer(whole, padded(tokenizer)), tokenizer, CHAT, tmp_path, show=True)
    assert masks.look(trainer(whole, padded(tokenizer)), tokenizer, CONVERSATIONS, tmp_path, show=True) > 0.9
    with pytest.raises(UserError, match="of whole conversations it is 90.0% to 100%"):
        masks.look(trainer(right, padded(tokenizer)), tokenizer, CONVERSATIONS, tmp_path, show=True)


def test_borders_that_do_not_fit_are_refused(tokenizer: Any) -> None:
    """Positions that run on over a border, lengths that lie, a trained first token, no positions at all."""
    import torch

    rows = pack_rows(documents(tokenizer, [9, 20]), 32)
    right = Blocks(0)

    def running_on(examples: Any) -> dict[str, Any]:
        batch = right(examples)
        return batch | {"position_ids": torch.arange(batch["input_ids"].shape[1])[None].expand_as(batch["input_ids"])}

    def no_positions(examples: Any) -> dict[str, Any]:
        return {key: value for key, value in right(examples).items() if key != "position_ids"}

    with pytest.raises(UserError, match="row 0: token 20 has position 20 and should have 0.*see another document"):
        masks.collated(trainer(rows, running_on))
    with pytest.raises(UserError, match="packs 2 documents and tells no positions"):
        masks.collated(trainer(rows, no_positions))
    lying = [rows[0] | {"seq_lengths": [20, 8]}]
    with pytest.raises(UserError, match="holds 29 tokens and its documents have 28|token 28|trains padding"):
        masks.collated(trainer(lying, lambda examples: right(rows)))
    first = [rows[0] | {"labels": list(rows[0]["input_ids"])}]
    with pytest.raises(UserError, match="row 0, token 20: the first token of a document is trained"):
        masks.examine(masks.collated(trainer(first, right)), tokenizer, DOCUMENTS)


def test_every_turn_must_be_closed(tokenizer: Any) -> None:
    """Of two trained turns the first lacks its end: only looking for the token anywhere would let it pass."""
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    ids = [200, 201, 202, end, 203, 204, end]
    good = Row(0, ids, [False, True, True, True, False, True, True], [7])
    bad = Row(0, ids, [False, True, True, False, False, True, True], [7])
    assert masks.examine([good], tokenizer, CHAT) == pytest.approx(5 / 7)
    with pytest.raises(UserError, match=r"row 0 never trains <\|end\|>"):
        masks.examine([bad], tokenizer, CHAT)


# --- what is shown ----------------------------------------------------------------------------------------------------


class Text(HTMLParser):
    """The texts of a page's trained and untrained spans."""

    def __init__(self) -> None:
        super().__init__()
        self.on: list[str] = []
        self.found = {"t": "", "u": ""}
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = self.inside or tag == "pre"
        self.on = (dict(attrs).get("class") or "").split() if tag == "span" else []

    def handle_data(self, data: str) -> None:
        for name in ("t", "u"):
            self.found[name] += data if self.inside and name in self.on else ""


def test_the_page_holds_each_token_on_its_side(tokenizer: Any) -> None:
    """Trained and untrained spans put together give the row's text; markup in a text stays text."""
    row = chat(tokenizer, answer="No <b>fever</b> & no é 肺.")
    seen = Row(3, row["input_ids"], [label != -100 for label in row["labels"]], [len(row["input_ids"])])
    page = Text()
    page.feed(to_html([seen], tokenizer, "chat", True))
    assert page.found["t"] == "No <b>fever</b> & no é 肺.<|end|>"
    assert page.found["u"].startswith("<|system|>\nAnswer the question.<|end|>")
    assert "".join(text for _, _, text in pieces(seen.ids, tokenizer)) == tokenizer.decode(seen.ids)
    html = to_html([seen], tokenizer, "chat", True)
    assert "prefers-color-scheme: dark" in html and "http" not in html


def test_a_terminal_gets_colours_and_no_escapes_of_others(tokenizer: Any) -> None:
    """Trained text is green on a terminal and in brackets elsewhere; an escape in a training text is taken out."""
    row = chat(tokenizer, answer="No\x1b[31m fever.")
    seen = Row(0, row["input_ids"], [label != -100 for label in row["labels"]], [len(row["input_ids"])])
    coloured = for_terminal(seen, tokenizer, True, coloured=True)
    assert "\x1b[30;42mNo�[31m fever.<|end|>\x1b[0m" in coloured and "⟦" not in coloured
    assert "⟦No�[31m fever.<|end|>⟧" in for_terminal(seen, tokenizer, True, coloured=False)


def test_withheld_texts_are_in_no_file_and_no_message(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers of tokens in place of texts: in both files, on the terminal, and in the line that ends a run."""
    rows = [chat(tokenizer, answer="pneumonia", note="dyspnoea") for _ in range(4)]
    masks.look(trainer(rows, padded(tokenizer)), tokenizer, CHAT, tmp_path, show=False)
    nothing(rows[2], 0)
    with pytest.raises(UserError, match=r"row 2 trains on nothing \(\d+ tokens\)") as error:
        masks.look(trainer(rows, padded(tokenizer)), tokenizer, CHAT, tmp_path, show=False)
    written = [path.read_text() for path in tmp_path.iterdir()]
    everything = "".join([*written, capsys.readouterr().err, str(error.value)])
    assert len(written) == 2 and not any(word in everything for word in ("pneumonia", "dyspnoea", "Answer"))
    seen = Row(0, list(range(9)), [False] * 6 + [True] * 3, [9])
    assert render(seen, tokenizer, False) == " 6 tokens ⟦ 3 tokens ⟧"


# --- whose texts may be shown -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("licence", "is_open"),
    [
        ("CC0-1.0 (simulated)", True),
        ("public domain (US government, CDC/NCHS)", True),
        ("CDLA-Permissive-2.0", True),
        ("CC BY 4.0", True),
        ("MIT", True),
        ("PhysioNet Credentialed Health Data License 1.5.0", False),
        ("CC BY 4.0, under a data use agreement", False),
        ("as the hospital says", False),
        ("unknown", False),
    ],
)
def test_only_licences_known_to_be_open_are(licence: str, is_open: bool) -> None:
    """An agreement closes whatever stands beside it, and a text that is not known to be open is closed."""
    assert access.is_open(licence) is is_open


class Corpus(Config):
    credentialed: bool = False


def test_texts_are_shown_where_every_source_is_open(tmp_path: Path) -> None:
    """Open runs are shown; one closed licence, none at all, a plain folder, or a recipe that says so withholds."""

    def corpus(name: str, licences: dict[str, str], credentialed: bool = False) -> Path:
        with run.start(Corpus(out=tmp_path / name, credentialed=credentialed), "corpus") as this:
            this.facts["licences"] |= licences
            return this.finish(rows=1)

    free = corpus("free", {"S": "CC0-1.0"})
    assert access.may_show(None, [free])
    for name, closed in {
        "mixed": corpus("mixed", {"S": "CC0-1.0", "T": "PhysioNet"}),
        "silent": corpus("silent", {}),
        "said": corpus("said", {"S": "CC0-1.0"}, credentialed=True),
        "plain": tmp_path,
    }.items():
        assert not access.may_show(None, [free, closed]), name
        assert access.may_show(True, [closed]) and not access.may_show(False, [free])
