"""Log-likelihoods: how probable is each option as the assistant's answer, how well is a text predicted.

No sampling and no parsing, so a small model's knowledge is measured without asking it to write. Log-probabilities are
taken in float32 whatever the model's dtype, and only positions that are needed go through the output layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medsmith.borders import begin_of_document
from medsmith.errors import UserError

if TYPE_CHECKING:
    import torch

_LOGITS = 2**26  # logits held at once (float32: 256 MiB)
# On a CPU small batches win (5.6M weights, one thread: 77 items/s at 1024 tokens, 54 at 8192, for they stay in the
# cache); a GPU wants many tokens.
_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}


@dataclass(frozen=True)
class ChoiceItem:
    """A conversation up to the assistant's turn, and the texts it might say."""

    messages: list[dict[str, str]]
    options: list[str]


@dataclass(frozen=True)
class OptionScores:
    """For each option, the sum of its tokens' log-probabilities (nats) and their number."""

    logprobs: list[float]
    tokens: list[int]

    def best(self, normalise: bool = True) -> int:
        """The index of the likeliest option, by mean log-probability per token or by the sum; ties: the first."""
        values = [
            value / count if normalise else value for value, count in zip(self.logprobs, self.tokens, strict=True)
        ]
        return max(range(len(values)), key=lambda index: (values[index], -index))


@dataclass(frozen=True)
class DocumentScore:
    """The negative log-likelihood of a text (nats), over all its tokens; its length in tokens and UTF-8 bytes."""

    nll: float
    tokens: int
    bytes: int


@dataclass(frozen=True)
class _Row:
    """One row of a batch: a prefix, then one or more branches, each seeing the prefix and itself, no other branch."""

    prefix: list[int]
    branches: list[list[int]]
    scored: int
    """How many tokens at a branch's end are scored; 0: all of them."""
    owners: list[tuple[int, int]]
    """Whose score each branch is: (item, option)."""

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(branch) for branch in self.branches)


def encode_chat(tokenizer: Any, messages: Sequence[Sequence[dict[str, str]]]) -> list[list[int]]:
    """Token ids of conversations up to and with the opening of the assistant's turn.

    Raises:
        UserError: the template and the tokenizer both add a beginning-of-text token.
    """
    texts = [tokenizer.apply_chat_template(list(m), add_generation_prompt=True, tokenize=False) for m in messages]
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    begin = tokenizer.bos_token_id
    for ids in encoded:
        if begin is not None and ids[:2] == [begin, begin]:
            raise UserError(
                f"the prompt begins with '{tokenizer.bos_token}' twice; remove one from the model's chat template"
            )
    return encoded


def context_of(model: Any) -> int:
    """The longest sequence that the model was built for."""
    return int(model.config.get_text_config().max_position_embeddings)


def encode_options(
    tokenizer: Any, items: Sequence[ChoiceItem], context: int
) -> list[tuple[list[int], list[list[int]]]]:
    """For each item the ids of its prompt and those of each option, which are encoded apart from the prompt.

    Raises:
        UserError: an item without options, an empty option, or a prompt with option longer than `context`.
    """
    prefixes = encode_chat(tokenizer, [item.messages for item in items])
    flat = [option for item in items for option in item.options]
    encoded = iter(tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else [])
    found = []
    for number, (item, prefix) in enumerate(zip(items, prefixes, strict=True)):
        branches = [next(encoded) for _ in item.options]
        if not branches or not all(branches):
            raise UserError(f"item {number} has no options or an empty one: {item.options}; give each option a text")
        longest = len(prefix) + max(len(branch) for branch in branches)
        if longest > context:
            raise UserError(
                f"item {number} needs {longest} tokens, the model's context is {context}; shorten the prompt"
            )
        found.append((prefix, branches))
    return found


def score_options(
    model: Any, tokenizer: Any, items: Sequence[ChoiceItem], batch_tokens: int | None = None
) -> list[OptionScores]:
    """Score every option of every item as the content of the assistant's turn.

    `batch_tokens` bounds the tokens of a batch with padding; None: what measured best (see `_BATCH_TOKENS`).

    The options of an item share one pass over its prompt: they lie behind it in one row, hidden from one another by
    the attention mask (2 to 3.5 times as fast as a row an option). Where a model's attention takes no such mask, each
    option is a row of its own.

    Raises:
        UserError: an item without options, an empty option, or a prompt with option longer than the model's context.
    """
    rows: list[_Row] = []
    for number, (prefix, branches) in enumerate(encode_options(tokenizer, items, context_of(model))):
        owners = [(number, option) for option in range(len(branches))]
        if _takes_tree_mask(model, len(prefix) + sum(map(len, branches))):
            rows.append(_Row(prefix, branches, 0, owners))
        else:
            rows += [_Row(prefix, [b], 0, [owner]) for b, owner in zip(branches, owners, strict=True)]
    totals = [[0.0] * len(item.options) for item in items]
    counts = [[0] * len(item.options) for item in items]
    for (number, option), value, count in _score_rows(model, rows, batch_tokens):
        totals[number][option] += value
        counts[number][option] += count
    return [OptionScores(values, lengths) for values, lengths in zip(totals, counts, strict=True)]


def document_nll(
    model: Any, tokenizer: Any, texts: Sequence[str], window: int | None = None, batch_tokens: int | None = None
) -> list[DocumentScore]:
    """Score every token of every text exactly once.

    The first token is conditioned on what begins a document in training too (see borders.begin_of_document). A text
    longer than `window` (default: the model's context) is read in windows that move by half their length, so that every
    token but those of the first window has at least half a window before it.
    """
    context = context_of(model)
    window = context if window is None else window
    if not 2 <= window <= context:
        raise UserError(f"window={window} is not between 2 and the model's context of {context} tokens")
    pieces = [list(document_pieces(tokenizer, text, window)) for text in texts]
    rows = [
        _Row(part[:1], [part[1:]], scored, [(number, 0)])
        for number, parts in enumerate(pieces)
        for part, scored in parts
    ]
    totals = [0.0] * len(texts)
    counts = [0] * len(texts)
    for (number, _), value, count in _score_rows(model, rows, batch_tokens):
        totals[number] -= value
        counts[number] += count
    return [
        DocumentScore(total, count, len(text.encode()))
        for total, count, text in zip(totals, counts, texts, strict=True)
    ]


def document_pieces(tokenizer: Any, text: str, window: int) -> Iterator[tuple[list[int], int]]:
    """A document as pieces of at most `window` ids, with how many at the end of each are scored: every token once.

    The first piece begins with the token that the document is conditioned on (see borders).
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = list(windows([begin_of_document(tokenizer), *ids], window))
    assert sum(scored for _, scored in pieces) == len(ids), "every token of a document is scored exactly once"
    yield from pieces


def windows(ids: list[int], window: int) -> Iterator[tuple[list[int], int]]:
    """Pieces of at most `window` ids, each with the number of ids at its end that no earlier piece has scored."""
    done = min(window, len(ids))
    if done > 1:
        yield ids[:done], done - 1
    while done < len(ids):
        end = min(done + max(1, window // 2), len(ids))
        yield ids[end - window : end], end - done
        done = end


def _score_rows(model: Any, rows: list[_Row], batch_tokens: int | None) -> Iterator[tuple[tuple[int, int], float, int]]:
    """Yield (owner, sum of log-probabilities, tokens) for every branch, longest rows first."""
    if not rows:
        return
    batch_tokens = batch_tokens or _BATCH_TOKENS.get(model.device.type, 8192)
    vocabulary = int(model.config.get_text_config().vocab_size)
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index]), index))
    start = 0
    while start < len(order):
        # The first row is the longest: it gives the width of the batch, and the width gives the number of rows.
        width = len(rows[order[start]])
        tail = max(len(row) - len(row.prefix) + 1 for row in (rows[index] for index in order[start:][:512]))
        height = max(1, min(batch_tokens // width, _LOGITS // (tail * vocabulary), 512))
        yield from _score_batch(model, [rows[index] for index in order[start : start + height]])
        start += height


def _score_batch(model: Any, rows: list[_Row]) -> Iterator[tuple[tuple[int, int], float, int]]:
    import torch

    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    branch_of = torch.full_like(ids, -1)  # -1: padding, 0: prefix, n: the nth branch
    sources: list[tuple[int, int]] = []  # where a token's predecessor stands: (row, column)
    targets: list[int] = []
    spans: list[tuple[tuple[int, int], int]] = []
    for number, row in enumerate(rows):
        column = width - len(row)  # padded on the left: what is scored lies at the end, where logits are kept
        length = len(row.prefix)
        ids[number, column : column + length] = torch.tensor(row.prefix)
        positions[number, column : column + length] = torch.arange(length)
        branch_of[number, column : column + length] = 0
        last, column = column + length - 1, column + length
        for count, (branch, owner) in enumerate(zip(row.branches, row.owners, strict=True), 1):
            end = column + len(branch)
            ids[number, column:end] = torch.tensor(branch)
            positions[number, column:end] = torch.arange(length, length + len(branch))
            branch_of[number, column:end] = count
            scored = row.scored or len(branch)
            before = [last, *range(column, end - 1)]
            sources += [(number, place) for place in before[-scored:]]
            targets += branch[-scored:]
            spans.append((owner, scored))
            column = end
    kept = width - min(place for _, place in sources)
    with torch.inference_mode():
        logits = model(
            input_ids=ids.to(model.device),
            attention_mask=_mask(branch_of, rows, model).to(model.device),
            position_ids=positions.to(model.device),
            use_cache=False,
            logits_to_keep=kept,
        ).logits
    at = torch.tensor(sources, device=logits.device)
    chosen = logits[at[:, 0], at[:, 1] - (width - kept)].float()
    aim = torch.tensor(targets, device=logits.device)
    values = (chosen.gather(1, aim[:, None])[:, 0] - chosen.logsumexp(1)).double().cpu()
    for (owner, count), part in zip(spans, values.split([count for _, count in spans]), strict=True):
        yield owner, float(part.sum()), count


def _mask(branch_of: torch.Tensor, rows: list[_Row], model: Any) -> torch.Tensor:
    """A padding mask where rows have one branch, else who sees whom: own branch and prefix, never what follows."""
    import torch

    if all(len(row.branches) == 1 for row in rows):
        return (branch_of >= 0).long()
    query, key = branch_of[:, :, None], branch_of[:, None, :]
    seen = ((key == query) | ((key == 0) & (query > 0))).tril()
    # Padding sees padding (branch -1 equals itself): a row that sees nothing would have a softmax of NaN.
    dtype = model.dtype
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def _takes_tree_mask(model: Any, length: int) -> bool:
    """Whether the model attends by a mask that we may draw ourselves over `length` tokens."""
    config = model.config.get_text_config()
    attentive = set(getattr(config, "layer_types", None) or ["full_attention"]) <= {
        "full_attention",
        "sliding_attention",
    }
    window = getattr(config, "sliding_window", None)
    return (
        attentive
        and not getattr(model, "_is_stateful", False)
        and config._attn_implementation in {"sdpa", "eager"}
        and (not window or window >= length)
    )
