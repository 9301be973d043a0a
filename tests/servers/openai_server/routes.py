"""From a request to an answer: who may ask, what goes wrong, what is worked out, and what is billed."""

from __future__ import annotations

import dataclasses
import http
import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.servers.openai_server import chat, embedding, errors, files
from tests.servers.openai_server.errors import ApiError
from tests.servers.openai_server.faults import BEFORE_WORK, OF_JOBS, REFUSES, Fault
from tests.servers.openai_server.files import new_id
from tests.servers.openai_server.http_server import Answer, Request
from tests.servers.openai_server.state import Row, digest_of

if TYPE_CHECKING:
    from tests.servers.openai_server.server import OpenAIServer

Json = dict[str, Any]


@dataclasses.dataclass(slots=True)
class Call:
    """A request on its way through the server."""

    server: OpenAIServer
    request: Request
    row: Row
    body: Any
    fault: Fault | None = None
    ids: tuple[str, ...] = ()

    @property
    def fault_kind(self) -> str:
        return self.fault.kind if self.fault else ""


def respond(server: OpenAIServer, request: Request) -> Answer:
    """The answer to any request."""
    if request.path.startswith("/_"):
        return _about_the_server(server, request)
    operation, handler, ids = _route(request)
    body = request.json if request.headers.get("content-type", "").startswith("application/json") else request.body
    row = server.books.open(operation, request.method, request.path, digest_of(body), _text(body, "model"))
    call = Call(server, request, row, body, None, ids)
    try:
        answer = _admitted(call, handler)
    except ApiError as error:
        answer = Answer(error.status, error.body, dict(error.headers))
    except Exception as error:  # a bug of this server: say so, and bill nothing
        answer = Answer(500, ApiError(500, f"the test server broke: {error!r}", kind="bug").body)
        row.fault = f"bug: {error!r}"
    answer.row = row
    row.status = None if answer.delivery in ("lost", "hang") else answer.status
    answer.headers |= {"x-request-id": new_id("req_"), "openai-version": "2020-10-01", **server.limits.headers()}
    return answer


def _admitted(call: Call, handler: Callable[[Call], Any] | None) -> Answer:
    server, request, row = call.server, call.request, call.row
    settings = server.settings
    authorization = request.headers.get("authorization", "")
    if settings.key is not None and authorization != f"Bearer {settings.key}":
        raise errors.wrong_key(authorization, whole=settings.whole_key_in_401)
    if handler is None:
        message = f"Invalid URL ({request.method} {request.path})"
        raise ApiError(404, message)
    if row.operation in chat.BILLED_OPERATIONS:
        server.limits.take(row.model or "", _estimated_tokens(call.body))
    fault = call.fault = server.faults.pick(row.operation, call.body)
    if fault is not None:
        row.fault = fault.kind
        if fault.kind in REFUSES:
            raise fault.error(row.model or "")
        if fault.kind in BEFORE_WORK:
            return _nothing_done(fault)
    result = handler(call)
    if row.billed and settings.latency_s:
        time.sleep(settings.latency_s)
    answer = result if isinstance(result, Answer) else Answer(200, json.dumps(result, ensure_ascii=False).encode())
    return _spoiled(answer, fault) if fault is not None and fault.kind not in OF_JOBS else answer


def _estimated_tokens(body: Any) -> int:
    """What the rate limit counts: the prompt by its length, and the most that was asked for."""
    if not isinstance(body, dict):
        return 0
    text = json.dumps(body.get("messages") or body.get("prompt") or body.get("input") or "")
    return len(text) // 4 + int(body.get("max_completion_tokens") or body.get("max_tokens") or 0)


def _nothing_done(fault: Fault) -> Answer:
    if fault.kind == "html":
        return _page(502)
    return Answer(500, b"", delivery="lost")


def _page(status: int) -> Answer:
    reason = http.HTTPStatus(status).phrase
    return Answer(status, errors.PAGE.format(status=status, reason=reason).encode(), content_type="text/html")


def _spoiled(answer: Answer, fault: Fault) -> Answer:
    """What a fault makes of an answer that was worked out."""
    match fault.kind:
        case "lost" | "reset_mid_body" | "cut" | "slow" | "hang":
            answer.delivery, answer.seconds = fault.kind, fault.seconds
        case "html_200":
            page = _page(502)
            return dataclasses.replace(page, status=200)
        case "truncated":
            if answer.pieces is None:
                answer.body = answer.body[: max(1, len(answer.body) * 2 // 3)]
            else:
                answer.pieces = answer.pieces[: len(answer.pieces) // 2]
        case _ if answer.pieces is None:
            body = json.loads(answer.body)
            _change(body, fault)
            answer.body = json.dumps(body, ensure_ascii=False).encode()
    return answer


def _change(body: Json, fault: Fault) -> None:
    choices = body.get("choices") or []
    match fault.kind:
        case "wrong_usage" if fault.mode == "missing":
            body.pop("usage", None)
        case "wrong_usage":
            factor = {"zero": 0, "tenfold": 10}[fault.mode]
            usage = body.get("usage") or {}
            body["usage"] = {name: n * factor if isinstance(n, int) else n for name, n in usage.items()}
        case "empty_choices":
            body["choices"] = []
        case "null_content" | "filtered" | "only_thoughts":
            for choice in choices:
                if "message" in choice:
                    text = choice["message"]["content"] or ""
                    choice["message"]["content"] = text[: len(text) // 3] if fault.kind == "filtered" else None
                reasons = {"filtered": "content_filter", "only_thoughts": "length"}
                choice["finish_reason"] = reasons.get(fault.kind, choice["finish_reason"])


def _route(request: Request) -> tuple[str, Callable[[Call], Any] | None, tuple[str, ...]]:
    for method, pattern, operation, handler in _ROUTES:
        if method == request.method and (found := pattern.fullmatch(request.path.rstrip("/"))):
            return operation, handler, found.groups()
    return "unknown", None, ()


def _list_models(call: Call) -> Json:
    return {"object": "list", "data": [_model(name) for name in call.server.model_names()]}


def _get_model(call: Call) -> Json:
    if call.ids[0] not in call.server.model_names():
        raise ApiError(404, f"The model '{call.ids[0]}' does not exist", param="model", code="model_not_found")
    return _model(call.ids[0])


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "system"}


def _embeddings(call: Call) -> Json:
    chat.check_model(call.server, call.body)
    answer, n_tokens = embedding.answer(call.body)
    call.server.books.bill(call.row, prompt=n_tokens)
    return answer


def _upload(call: Call) -> Json:
    return files.upload(call.server.files, call.request.headers.get("content-type", ""), call.request.body)


def _list_files(call: Call) -> Json:
    purpose = call.request.query.get("purpose")
    rows = [row for row in call.server.files.list() if purpose in (None, row["purpose"])]
    return files.page(rows[::-1] if call.request.query.get("order") == "asc" else rows, call.request.query, 10_000)


def _get_file(call: Call) -> Json:
    return call.server.files.find(call.ids[0])


def _delete_file(call: Call) -> Json:
    return call.server.files.delete(call.ids[0])


def _content(call: Call) -> Answer:
    return Answer(200, call.server.files.data(call.ids[0]), content_type="application/octet-stream")


def _create_job(call: Call) -> Json:
    if not isinstance(call.body, dict):
        raise ApiError(400, "We could not parse the JSON body of your request.")
    fault = call.fault if call.fault_kind in OF_JOBS else None
    known = [name for name in call.server.model_names() if not name.startswith("text-embedding")]
    known += [str(call.body.get("model"))] if call.server.settings.any_model else []
    job = call.server.jobs.create(call.body, call.row, fault, known)
    call.server.books.bill(call.row)
    return job


def _list_jobs(call: Call) -> Json:
    return files.page(call.server.jobs.matching(call.request.query), call.request.query)


def _get_job(call: Call) -> Json:
    return call.server.jobs.retrieve(call.ids[0])


def _cancel(call: Call) -> Json:
    return call.server.jobs.cancel(call.ids[0])


def _checkpoints(call: Call) -> Json:
    return files.page(call.server.jobs.checkpoints(call.ids[0]), call.request.query)


def _events(call: Call) -> Json:
    return files.page(call.server.jobs.events(call.ids[0]), call.request.query)


_JOBS = r"/v1/fine_tuning/jobs"
_ROUTES: list[tuple[str, re.Pattern[str], str, Callable[[Call], Any]]] = [
    (method, re.compile(pattern), operation, handler)
    for method, pattern, operation, handler in (
        ("POST", r"/v1/chat/completions", "chat", chat.chat),
        ("POST", r"/v1/completions", "completions", chat.completions),
        ("POST", r"/v1/embeddings", "embeddings", _embeddings),
        ("GET", r"/v1/models", "models", _list_models),
        ("GET", r"/v1/models/(.+)", "models.get", _get_model),
        ("POST", r"/v1/files", "files", _upload),
        ("GET", r"/v1/files", "files.list", _list_files),
        ("GET", r"/v1/files/([^/]+)", "files.get", _get_file),
        ("GET", r"/v1/files/([^/]+)/content", "files.content", _content),
        ("DELETE", r"/v1/files/([^/]+)", "files.delete", _delete_file),
        ("POST", _JOBS, "fine_tuning.jobs", _create_job),
        ("GET", _JOBS, "fine_tuning.jobs.list", _list_jobs),
        ("GET", _JOBS + r"/([^/]+)", "fine_tuning.jobs.get", _get_job),
        ("POST", _JOBS + r"/([^/]+)/cancel", "fine_tuning.jobs.cancel", _cancel),
        ("GET", _JOBS + r"/([^/]+)/events", "fine_tuning.jobs.events", _events),
        ("GET", _JOBS + r"/([^/]+)/checkpoints", "fine_tuning.jobs.checkpoints", _checkpoints),
    )
]


def _about_the_server(server: OpenAIServer, request: Request) -> Answer:
    """GET /_state (?rows=1), POST /_misbehave (a list of rules), POST /_settings; no key, and not in the books."""
    try:
        if (request.method, request.path) == ("GET", "/_state"):
            found = server.to_json(with_rows=request.query.get("rows") == "1")
        elif (request.method, request.path) == ("POST", "/_misbehave"):
            rules = request.json
            server.misbehave(*(rules if isinstance(rules, list) else [rules]))
            found = {"rules": len(rules) if isinstance(rules, list) else 1}
        elif (request.method, request.path) == ("POST", "/_settings"):
            found = server.change(request.json)
        else:
            return Answer(404, b'{"error": {"message": "no such page"}}')
    except (TypeError, ValueError) as error:
        return Answer(400, json.dumps({"error": {"message": str(error)}}).encode())
    return Answer(200, json.dumps(found, ensure_ascii=False).encode())


def _text(body: Any, name: str) -> str | None:
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, str) else None
