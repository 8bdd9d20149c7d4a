"""Offline batch inference with vLLM in this process: no server, no address, the model is a folder or a hub id.

`teacher.vllm` holds arguments of `vllm.LLM` as they stand (tensor_parallel_size, max_model_len, …). Answers are held to
a request's JSON schema by vLLM's structured outputs; `structured_outputs_config: {backend: guidance}` there is the
backend that keeps to all of a schema. No request is given a seed: one with a prompt that is computed in several chunks
ends the engine on CPUs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from medsmith.chat import ChatError, ChatReply, ChatRequest
from medsmith.errors import UserError
from medsmith.limits import BudgetReached
from medsmith.llm import TeacherConfig

Done = Callable[[ChatRequest, ChatReply | ChatError], None]


class VllmChat:
    """A BulkChat that computes its answers here. They cost no money, so a price and max_cost have no effect."""

    bulk_size = 4096

    def __init__(self, config: TeacherConfig, *, library: Any = None) -> None:
        """`library` stands for the module vllm in tests. The model is loaded by the first call.

        Raises:
            UserError: vLLM is not installed.
        """
        if library is None and find_spec("vllm") is None:
            raise UserError(
                "engine vllm needs the package vllm (Linux, a CUDA device); pip install 'medsmith[vllm]', or start a "
                "server elsewhere and give its address as teacher.base_url"
            )
        self.config = config
        self.requests = 0
        self._library = library
        self._engine: Any = None

    def count_earlier(self, attempts: int, cost: float) -> None:
        """Charge the budget with what an earlier try has spent."""
        self.requests += attempts

    def refuse_remote(self) -> None:
        """Nothing leaves this machine."""

    async def close(self) -> None:
        """Keep the model: loading it takes minutes, and the run may have more calls."""

    async def complete_all(self, requests: Sequence[ChatRequest], done: Done) -> None:
        """Compute all answers; one that vLLM refuses (too long, a schema that it cannot follow) is its own failure.

        Raises:
            UserError: the model cannot be loaded, the engine died, or the budget of requests is used up.
        """
        most = self.config.budget.max_requests
        allowed = list(requests if most is None else requests[: max(0, most - self.requests)])
        if allowed:
            self._load()
            for request, answer in await asyncio.to_thread(self._answers, allowed):
                self.requests += 1
                done(request, answer)
        if len(allowed) < len(requests):
            raise BudgetReached(
                f"the budget of {most} requests is used up; finished calls are kept: raise "
                "teacher.budget.max_requests and run again to continue"
            )

    def _load(self) -> None:
        if self._engine is not None:
            return
        if self._library is None:
            os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
            os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
            import vllm

            self._library = vllm
        try:
            self._engine = self._library.LLM(model=self.config.model, **(self.config.vllm or {}))
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            said = " ".join(str(error).split())[:300]
            raise UserError(f"vLLM cannot load {self.config.model!r}: {said}; check teacher.model and .vllm") from error

    def _answers(self, requests: list[ChatRequest]) -> list[tuple[ChatRequest, ChatReply | ChatError]]:
        """vLLM refuses a whole list for one bad request, before it computes anything: halve it until that is alone."""
        try:
            outputs = self._chat(requests)
        except Exception as error:
            if type(error).__name__ == "EngineDeadError":
                raise UserError(
                    "the vLLM engine died, most likely for want of memory; finished calls are kept: lower "
                    "max_num_seqs or max_model_len in teacher.vllm and run again"
                ) from error
            if len(requests) == 1:
                return [(requests[0], ChatError(f"{type(error).__name__}: {error}"[:300], final=True))]
            half = len(requests) // 2
            return self._answers(requests[:half]) + self._answers(requests[half:])
        return [(request, self._reply(output)) for request, output in zip(requests, outputs, strict=True)]

    def _chat(self, requests: list[ChatRequest]) -> Any:
        extra = dict(self.config.extra_body)
        template = extra.pop("chat_template_kwargs", None)
        settings: dict[str, Any] = {"chat_template_kwargs": template} if template else {}
        messages = [list(request.messages) for request in requests]
        return self._engine.chat(messages, [self._sampling(one, extra) for one in requests], use_tqdm=False, **settings)

    def _sampling(self, request: ChatRequest, extra: dict[str, Any]) -> Any:
        asked: dict[str, Any] = {"n": request.n, "temperature": request.temperature, "max_tokens": request.max_tokens}
        if request.response_schema is not None:
            from_schema = self._library.sampling_params.StructuredOutputsParams
            asked["structured_outputs"] = from_schema(json=request.response_schema)
        asked |= extra
        # The name that hosted endpoints have for it.
        asked["max_tokens"] = asked.pop("max_completion_tokens", None) or asked["max_tokens"]
        return self._library.SamplingParams(**{name: value for name, value in asked.items() if value is not None})

    def _reply(self, output: Any) -> ChatReply:
        answers = sorted(output.outputs, key=lambda one: one.index)
        usage = {
            "prompt_tokens": len(output.prompt_token_ids or ()),
            "completion_tokens": sum(len(one.token_ids) for one in answers),
        }
        finish = [one.finish_reason or "" for one in answers]
        return ChatReply([one.text for one in answers], usage, self.config.model, 1, 0.0, finish)
