"""Prompts are files (`prompts/*.jinja`, blocks `system` and `user`), and each carries its request as data.

The request is the JSON in a fenced block at the end of the user's message: to a real model the facts of its task, to
the simulated teacher all that it reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from medsmith.llm import Message

_BLOCK = re.compile(r"^```request\n(.+)\n```$", re.MULTILINE)


def render(name: str, request: dict[str, Any], **values: Any) -> list[Message]:
    """The system and user messages of `prompts/<name>.jinja`, the request at their end."""
    return [
        {"role": "system", "content": render_block(name, "system", **values)},
        {"role": "user", "content": f"{render_block(name, 'user', **values)}\n\n{request_block(request)}"},
    ]


def render_block(name: str, block: str, **values: Any) -> str:
    """One block of `prompts/<name>.jinja`; a value that the block names and nobody gives is an error."""
    template = _templates().get_template(f"{name}.jinja")
    return "".join(template.blocks[block](template.new_context(values))).strip()


def request_block(request: dict[str, Any]) -> str:
    """The request as a fenced block: one line of JSON, so that no text inside can end the block."""
    return f"```request\n{json.dumps(request, ensure_ascii=False, separators=(',', ':'))}\n```"


def read_request(messages: Sequence[Message]) -> dict[str, Any] | None:
    """The request in the last user message that holds one; None where none does."""
    for message in reversed(messages):
        if message["role"] == "user":
            blocks = _BLOCK.findall(message["content"])
            if blocks:
                value = json.loads(blocks[-1])
                return value if isinstance(value, dict) else None
    return None


@cache
def _templates() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "prompts"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # The output is plain text for a model, never HTML.
        autoescape=False,
    )
