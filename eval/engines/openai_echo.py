"""Log-probabilities of a prompt from /completions: the prompt is sent as token ids and echoed with its likelihoods."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from medsmith.errors import UserError
from medsmith.llm import ChatRequest, TeacherConfig
from medsmith.openai_chat import OpenAIChat


class EchoChat(OpenAIChat):
    """A client whose answers are, as texts, the list of the log-probabilities of the prompt's tokens.

    All that is not the body and its reading is the chat client's: retries, limits, budget, key.
    """

    path = "/completions"

    def build_body(self, request: ChatRequest, n: int) -> dict[str, Any]:
        """One token is written, because not every server writes none."""
        ids = json.loads(request.messages[0]["content"])
        body = {"model": self.config.model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "echo": True}
        return body | {"logprobs": 1} | self.config.extra_body

    def read_answer(self, answer: Any) -> dict[str, Any]:
        """The answer in the form of a chat completion.

        Raises:
            UserError: there are no log-probabilities of the prompt, which no other call would have.
        """
        found = (answer["choices"][0].get("logprobs") or {}).get("token_logprobs")
        # The first token has none; of one that is written, there would be one or two.
        if not found or len(found) < 3 or any(value is None for value in found[1:]):
            raise no_likelihoods(self.base_url, "it echoes none")
        choice = {"message": {"content": json.dumps(found)}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": answer.get("usage"), "model": answer.get("model")}


def echo_request(config: TeacherConfig, ids: Sequence[int]) -> ChatRequest:
    """A request for the log-probabilities of these ids; a chat of the same text would have another id."""
    return config.request([{"role": "prompt", "content": json.dumps(list(ids))}], max_tokens=1)


def no_likelihoods(base_url: str, why: str) -> UserError:
    """What to do where an endpoint gives no likelihoods."""
    return UserError(
        f"{base_url} gives no log-probabilities of a prompt ({why}); take out endpoint.tokenizer to have options "
        "answered by a letter, and leave out corpora"
    )
