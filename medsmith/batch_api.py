"""The calls that batches need of an OpenAI-compatible endpoint: files up and down, batches begun and looked at."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from medsmith.batch_book import Batch, BatchBook
from medsmith.errors import UserError
from medsmith.openai_chat import TRY_AGAIN, OpenAIChat

SETTLE_SECONDS = 5.0
"""How long a batch whose creation was not confirmed may take to appear in the list of batches."""
METADATA = "medsmith"


@asynccontextmanager
async def open_api(http: OpenAIChat, book: BatchBook) -> AsyncIterator[BatchApi]:
    """Connect as `http` does, with the retries of the openai package."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    async with http.build_client(http.config.max_retries) as client:
        yield BatchApi(client, http, book)


class BatchApi:
    """The few calls that batches need. All but one may be repeated, which the client does; that one looks first."""

    def __init__(self, client: Any, http: OpenAIChat, book: BatchBook) -> None:
        self.client = client
        self.http = http
        self.book = book

    async def upload(self, path: Path) -> str:
        """Upload an input file and return its id."""
        file = await self._tell(self.client.files.create(file=path, purpose="batch"))
        return str(file.id)

    async def create(self, batch: Batch) -> str:
        """Submit a batch and return its id: after a failure that says nothing, only if it is not there after all."""
        import openai

        once = self.client.with_options(max_retries=0)
        for attempt in range(self.http.config.max_retries + 1):
            try:
                created = await once.batches.create(
                    input_file_id=batch.input_file,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    metadata={METADATA: batch.key},
                )
                return str(created.id)
            except (openai.APIConnectionError, openai.APIStatusError) as error:
                status = getattr(error, "status_code", 500)
                if attempt == self.http.config.max_retries or not (status in TRY_AGAIN or status >= 500):
                    raise self._user_error(error) from None
            await self.http._sleep(max(SETTLE_SECONDS, self.http.config.retry_seconds * 2**attempt))
            found = await self.find(batch)
            if found is not None:
                return found
        raise AssertionError("the last attempt returns or raises")

    async def find(self, batch: Batch) -> str | None:
        """The id of a batch that was submitted with our key, if it was."""
        import openai

        try:
            async for one in self.client.batches.list(limit=100):
                if (one.metadata or {}).get(METADATA) == batch.key:
                    return str(one.id)
                if one.created_at < batch.at - 3600:
                    break
        except openai.NotFoundError:
            pass  # an endpoint without such a list: nothing can be found there
        except openai.APIError as error:
            raise self._user_error(error) from None
        return None

    async def look(self, batch: Batch) -> Any:
        """The batch as the provider has it, or None where it is unknown there."""
        import openai

        try:
            return await self.client.batches.retrieve(batch.id)
        except openai.NotFoundError as error:
            if not self.http.local:
                raise UserError(
                    f"{self.http.base_url} does not know batch {batch.id} with {batch.requests} calls of this run; "
                    f"use the key that it was submitted with, or remove {self.book.path} to pay for them again"
                ) from error
            return None
        except openai.APIError as error:
            raise self._user_error(error) from None

    async def fetch(self, file: str | None, path: Path) -> None:
        """Write the content of a file to `path`, whole or not at all."""
        if file is None:
            return
        import openai

        partial = path.with_suffix(".partial")
        try:
            async with self.client.files.with_streaming_response.content(file) as response:
                with partial.open("wb") as target:
                    async for chunk in response.iter_bytes():
                        target.write(chunk)
        except openai.APIError as error:
            raise self._user_error(error) from None
        partial.replace(path)

    async def delete(self, *files: str | None) -> None:
        """Remove files at the provider; one that cannot be removed is no reason to stop."""
        import openai

        for file in files:
            if file is not None:
                try:
                    await self.client.files.delete(file)
                except openai.APIError as error:
                    logging.getLogger(__name__).debug("%s stays at the provider: %s", file, error)

    async def _tell(self, call: Awaitable[Any]) -> Any:
        import openai

        try:
            return await call
        except openai.APIError as error:
            raise self._user_error(error) from None

    def _user_error(self, error: Any) -> UserError:
        where = self.http.base_url
        status = getattr(error, "status_code", None)
        if status is None:
            cause = error.__cause__ or error
            return UserError(f"{where} cannot be reached ({type(cause).__name__}); batches go on there: run again")
        said = " ".join(str(error).split())[:300].replace(self.http._key or "\0", "[key]")
        if status == 404:
            return UserError(f"{where} has no batches ({said}); use engine=local with it")
        return UserError(f"{where} refuses the batch: {said}; check model, base_url and api_key_env, and run again")
