"""A teacher at an address that does not exist, over a transport that plays a script."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2

from medsmith.llm import ChatRequest, TeacherConfig
from medsmith.openai_chat import OpenAIChat

LOCAL = "http://127.0.0.1:9/v1"


def teacher(**settings: Any) -> TeacherConfig:
    return TeacherConfig(**{"base_url": LOCAL, "model": "m", **settings})


def ask(config: TeacherConfig, count: int, **settings: Any) -> list[ChatRequest]:
    return [config.request([{"role": "user", "content": f"question {n}"}], **settings) for n in range(count)]


def answer(request: httpx2.Request, text: str = "yes", prompt: int = 10, completion: int = 5) -> httpx2.Response:
    n = json.loads(request.content).get("n", 1)
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return httpx2.Response(200, json={"model": "m-1", "choices": [choice] * n, "usage": usage})


class Endpoint:
    """A chat model over a transport that plays `script` first and then answers; sleeps are noted, not slept."""

    def __init__(self, config: TeacherConfig, script: list[httpx2.Response | Exception] | None = None) -> None:
        self.script = list(script or [])
        self.requests: list[httpx2.Request] = []
        self.pauses: list[float] = []
        self.chat = OpenAIChat(
            config.base_url or "", config, transport=httpx2.MockTransport(self.handle), sleep=self.sleep
        )

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        step = self.script.pop(0) if self.script else answer(request)
        if isinstance(step, Exception):
            raise step
        return step

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


def refused(status: int, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()}, text="no")
