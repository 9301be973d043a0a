"""POST /v1/chat/completions and POST /v1/completions."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from tests.servers.openai_server import errors, language_model, skills, tokens
from tests.servers.openai_server.errors import ApiError
from tests.servers.openai_server.files import new_id
from tests.servers.openai_server.http_server import Answer
from tests.servers.openai_server.skills import Task

if TYPE_CHECKING:
    from tests.servers.openai_server.routes import Call
    from tests.servers.openai_server.server import OpenAIServer

BILLED_OPERATIONS = ("chat", "completions", "embeddings")
_REASONS = re.compile(r"^(?:ft:)?(?:o\d|gpt-5)")  # models that take max_completion_tokens, and temperature 1 only
Json = dict[str, Any]


def check_model(server: OpenAIServer, body: Any) -> str:
    """The model's name; 400 without one, 404 where there is no such model."""
    if not isinstance(body, dict):
        raise ApiError(400, "We could not parse the JSON body of your request. (HINT: This likely means you aren't "
                       "using your HTTP library correctly. The OpenAI API expects a JSON payload.)")  # fmt: skip
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise ApiError(400, "you must provide a model parameter")
    if not server.settings.any_model and name not in server.model_names():
        raise errors.no_model(name)
    return name


def chat(call: Call) -> Json | Answer:
    """Answer a conversation."""
    server, body = call.server, call.body
    model = check_model(server, body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise errors.missing("messages")
    most = _most_tokens(model, body)
    n_prompt, context = tokens.count_messages(messages, model), server.context_tokens(model)
    if n_prompt > context:
        raise errors.too_long(context, n_prompt)
    if most and n_prompt + most > context:
        raise errors.too_long(context, n_prompt, most)
    luck = _luck(body, call.row.number)
    choices, n_completion = [], 0
    for index in range(int(body.get("n") or 1)):
        task = Task(messages, body.get("response_format"), f"{luck}{index or ''}" if luck else "", call.row.number)
        text = skills.answer(task, server.settings.habits, server.jobs.model(model))
        text, n_tokens, reason = _shortened(text, most, body.get("stop"), model)
        n_completion += n_tokens
        message: Json = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        logprobs = _token_logprobs(text, int(body.get("top_logprobs") or 0)) if body.get("logprobs") else None
        choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
    server.books.bill(call.row, prompt=n_prompt, completion=n_completion)
    answer = {
        "id": new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": _usage(n_prompt, n_completion),
        "service_tier": "default",
        "system_fingerprint": "fp_test",
    }
    return _stream(answer, body) if body.get("stream") else answer


def completions(call: Call) -> Json:
    """Continue a prompt, or tell its log-probabilities (echo and logprobs), as vLLM does."""
    server, body = call.server, call.body
    model = check_model(server, body)
    prompts = _prompts(body.get("prompt"), model)
    most = 16 if body.get("max_tokens") is None else int(body["max_tokens"])
    wants_logprobs = body.get("logprobs") is not None and body.get("logprobs") is not False
    choices, n_prompt, n_completion = [], 0, 0
    for index, prompt in enumerate(prompts):
        n = tokens.count(prompt, model)
        if n + most > server.context_tokens(model):
            raise errors.too_long(server.context_tokens(model), n, most)
        text, n_tokens, reason = "", 0, "length"
        if most > 0:
            task = Task([{"role": "user", "content": prompt}], None, _luck(body, call.row.number), call.row.number)
            reply = " " + skills.answer(task, server.settings.habits, server.jobs.model(model))
            text, n_tokens, reason = _shortened(reply, most, body.get("stop"), model)
        shown = prompt + text if body.get("echo") else text
        logprobs = None
        if wants_logprobs:
            logprobs = language_model.logprobs_of(prompt + text)
            if not body.get("echo"):
                logprobs = _from(logprobs, len(prompt))
        choices.append({"index": index, "text": shown, "logprobs": logprobs, "finish_reason": reason})
        n_prompt, n_completion = n_prompt + n, n_completion + n_tokens
    server.books.bill(call.row, prompt=n_prompt, completion=n_completion)
    return {
        "id": new_id("cmpl-"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": _usage(n_prompt, n_completion),
    }


def _most_tokens(model: str, body: Json) -> int | None:
    if _REASONS.match(model):
        if body.get("max_tokens") is not None:
            raise errors.unsupported("max_tokens")
        if body.get("temperature") not in (None, 1):
            message = (
                f"Unsupported value: 'temperature' does not support {body['temperature']} with this model. Only the "
                "default (1) value is supported."
            )
            raise ApiError(400, message, param="temperature", code="unsupported_value")
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    if most is not None and (not isinstance(most, int) or most < 1):
        message = f"Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got {most} instead."
        raise ApiError(400, message, param="max_tokens", code="integer_below_min_value")
    return most


def _luck(body: Json, number: int) -> str:
    """What a sampled answer depends on: the seed, or the request's number where there is none."""
    temperature = body.get("temperature")
    if temperature == 0:
        return ""
    seed = body.get("seed")
    return f"seed {seed} at {temperature}" if seed is not None else f"request {number}"


def _shortened(text: str, most: int | None, stop: Any, model: str) -> tuple[str, int, str]:
    """The text up to a stop word and a number of tokens; its tokens, and why it ends."""
    for word in [stop] if isinstance(stop, str) else stop or []:
        text = text.split(word)[0]
    n = tokens.count(text, model)
    if most is None or n < most:
        return text, n + 1, "stop"  # the token that ends it is billed too
    if n == most:
        return text, n, "length"
    return tokens.text_of(tokens.ids(text, model)[:most], model), most, "length"


def _token_logprobs(text: str, n_top: int) -> Json:
    """For each token, by the small language model; the alternatives are made up and less likely."""
    pieces = language_model.split(text)
    content = []
    for (piece, _), value in zip(pieces, language_model.log_probabilities(text), strict=True):
        logprob = -1.0 if value is None else value
        row = {"token": piece, "logprob": logprob, "bytes": list(piece.encode())}
        others = [{"token": f" {rank}", "logprob": logprob - rank, "bytes": None} for rank in range(1, n_top)]
        content.append({**row, "top_logprobs": [row, *others] if n_top else []})
    return {"content": content, "refusal": None}


def _from(logprobs: Json, offset: int) -> Json:
    kept = [at for at, start in enumerate(logprobs["text_offset"]) if start >= offset]
    return {name: [values[at] for at in kept] for name, values in logprobs.items()}


def _prompts(given: Any, model: str) -> list[str]:
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given and all(isinstance(one, int) for one in given):
        return [tokens.text_of(given, model)]
    if isinstance(given, list) and given:
        return [one if isinstance(one, str) else tokens.text_of(one, model) for one in given]
    raise ApiError(400, "you must provide a prompt parameter", param="prompt")


def _usage(n_prompt: int, n_completion: int) -> Json:
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _stream(answer: Json, body: Json) -> Answer:
    """The same answer as server-sent events, a word or two at a time."""
    common = {name: answer[name] for name in ("id", "created", "model", "service_tier", "system_fingerprint")}
    common["object"] = "chat.completion.chunk"
    wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    chunks: list[Json] = []
    for choice in answer["choices"]:
        deltas: list[tuple[Json, str | None]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"content": one}, None) for one in re.findall(r"\s*\S+\s*$|\s*\S+", choice["message"]["content"])]
        deltas.append(({}, choice["finish_reason"]))
        chunks += [
            {"choices": [{"index": choice["index"], "delta": delta, "logprobs": None, "finish_reason": reason}]}
            for delta, reason in deltas
        ]
    if wants_usage:
        chunks = [{**one, "usage": None} for one in chunks] + [{"choices": [], "usage": answer["usage"]}]
    pieces = [f"data: {json.dumps({**common, **one}, ensure_ascii=False)}\n\n".encode() for one in chunks]
    return Answer(200, b"", content_type="text/event-stream; charset=utf-8", pieces=[*pieces, b"data: [DONE]\n\n"])
