"""What a teacher wrote of a document as conversations: how the model will be asked of it."""

from __future__ import annotations

from medsmith.answers import Messages
from medsmith.documents import question_and_answer
from medsmith.errors import UserError, quoted
from medsmith.records import Document, content_id

SYSTEMS = ("", "You are a helpful assistant.", "Answer the question.", "Answer briefly.")
"""The turn before a question, drawn for each by its hash: no single one shall be what the answer hangs on."""

INSTRUCTIONS = {
    "summary": "Summarise this document.",
    "entities": "List the medical entities that this document names, one a line.",
    "relations": "List the relations that this document states, one a line, as subject | relation | object.",
    "explainer": "Explain this document in full sentences, as a textbook does.",
}
"""What is asked of a document, by the teacher's task; questions are asked without it."""


def converse(document: Document, outputs: list[str], task: str, seed: int) -> list[Messages]:
    """One conversation for each of the teacher's rows of a document.

    Raises:
        UserError: a row that is no question with its answer, or a task that nothing is known of.
    """
    if task == "question_answer":
        return [_ask(document, output, seed) for output in outputs]
    if task not in INSTRUCTIONS:
        raise UserError(
            f"rows of task '{task}' cannot be asked in a chat ({', '.join(['question_answer', *INSTRUCTIONS])} can); "
            "set rows_as=text"
        )
    named = document.title and not document.text.startswith(document.title)
    text = f"{document.title}\n{document.text}" if named else document.text
    asked = f"{INSTRUCTIONS[task]}\n\n{text}"
    return [[_turn("user", asked), _turn("assistant", output.strip())] for output in outputs]


def _ask(document: Document, output: str, seed: int) -> Messages:
    pair = question_and_answer(output)
    if pair is None:
        raise UserError(
            f"document '{document.id}': the row ({quoted(output)}) is not of the form 'Question: … Answer: …'; mend "
            "it, or set rows_as=text"
        )
    system = SYSTEMS[int(content_id("system", seed, output), 16) % len(SYSTEMS)]
    turns = [_turn("user", pair[0]), _turn("assistant", pair[1])]
    return [_turn("system", system), *turns] if system else turns


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
