"""A served model as LlamaIndex's own OpenAI class, asked as the pipeline asks it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.base.llms.generic_utils import (
    achat_to_completion_decorator,
    astream_chat_to_completion_decorator,
    chat_to_completion_decorator,
    stream_chat_to_completion_decorator,
)
from llama_index.core.base.llms.types import (
    ChatMessage,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.llms.openai import OpenAI

from radit_job.model_ref import ModelRef, key_variable
from radit_job.models.openai_api.client import NO_KEY, Endpoint


def as_openai_llm(
    ref: ModelRef, *, max_new_tokens: int, temperature: float = 0.0, system_prompt: str = ""
) -> ServedOpenAI:
    """The model as LlamaIndex's OpenAI; ConfigError if the service needs a key and the environment has none.

    OpenAI.complete() by itself sends no system message; here it does, with `system_prompt`.
    """
    variable = key_variable(ref)
    Endpoint.open(ref).close()  # it knows whether a key is needed, and what can be one
    return ServedOpenAI(
        model=ref.name,
        api_base=ref.base_url,
        api_key=f"${variable}" if variable else NO_KEY,
        key_variable=variable,
        context_tokens=ref.context_tokens,
        temperature=temperature,
        max_tokens=max_new_tokens,
        timeout=ref.timeout_s,
        system_prompt=system_prompt,
    )


class ServedOpenAI(OpenAI):
    """LlamaIndex's OpenAI for models whose names it does not know, too: all are asked by chat.

    The key is read from the environment when a call is made: an object that is printed or logged shows none.
    """

    key_variable: str | None
    context_tokens: int | None = None

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex knows of the model; its default context of 3900 tokens where nobody knows."""
        try:
            known = super().metadata
        except ValueError:  # a name that it does not know
            known = LLMMetadata(num_output=self.max_tokens or -1, is_function_calling_model=True, model_name=self.model)
        context_window = self.context_tokens or known.context_window
        return known.model_copy(update={"context_window": context_window, "is_chat_model": True})

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Ask after the system message."""
        return chat_to_completion_decorator(self._after_system(self._chat))(prompt, **kwargs)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """As `complete`, in parts."""
        return stream_chat_to_completion_decorator(self._after_system(self._stream_chat))(prompt, **kwargs)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """As `complete`."""
        return await achat_to_completion_decorator(self._after_system(self._achat))(prompt, **kwargs)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """As `complete`, in parts."""
        return await astream_chat_to_completion_decorator(self._after_system(self._astream_chat))(prompt, **kwargs)

    def _after_system(self, chat: Callable[..., Any]) -> Callable[..., Any]:
        system = [ChatMessage(role="system", content=self.system_prompt)] if self.system_prompt else []

        def asked(messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
            return chat([*system, *messages], **kwargs)

        return asked

    def _get_credential_kwargs(self, is_async: bool = False) -> dict[str, Any]:
        key = os.environ.get(self.key_variable, "").strip() if self.key_variable else ""
        return {**super()._get_credential_kwargs(is_async), "api_key": key or NO_KEY}
