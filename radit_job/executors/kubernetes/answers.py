"""What the API server answers when it says no, as errors that tell what to do."""

from __future__ import annotations

import json
from typing import Any

from radit_job.errors import ConfigError, RaditError, ServiceError


class ApiError(ServiceError):
    """The API server refused, and asking again would not help."""

    def __init__(self, what: str, *, where: str | None = None, todo: str | None = None, status: int = 0) -> None:
        super().__init__(what, where=where, todo=todo)
        self.status = status


class AlreadyExists(ApiError):
    """409: there is an object of that name."""


class Conflict(ApiError):
    """409: the object is not what the request expected, such as another uid."""


class Gone(ApiError):
    """410: the resourceVersion, or the page of a list, is too old: list again."""


class Forbidden(ApiError):
    """403: the verb is not granted."""


class QuotaFull(ApiError):
    """403 as a ResourceQuota answers: it may be freed."""


class NoAnswer(ServiceError):
    """The API server did not answer as long as the client's patience lasted."""


class Stopped(Exception):
    """The waiting was ended from another thread."""


def answer_of(body: bytes) -> dict[str, Any]:
    """The Status object in an answer's body; what is none (a proxy's page) becomes its message."""
    try:
        plain = json.loads(body)
    except ValueError:
        plain = None
    return plain if isinstance(plain, dict) else {"message": body.decode(errors="replace").strip()[:300]}


def error_of(code: int, answer: dict[str, Any], *, verb: str, what: str, namespace: str, where: str) -> RaditError:
    """The error for an answer that is final. `what` is the resource, with its name if there is one."""
    reason, said = answer.get("reason") or "", answer.get("message") or f"HTTP status {code}"
    task = f"cannot {verb} {what} in namespace {namespace}"
    if code == 401:
        todo = "Log in to the cluster anew; then `kubectl auth whoami` answers, and so does radit."
        return ApiError("the cluster does not accept the credentials", where=where, todo=todo, status=code)
    if code == 403:
        return _forbidden(said, task, verb, what, namespace)
    if code == 409:
        kind = AlreadyExists if reason == "AlreadyExists" else Conflict
        return kind(f"{task}: {said}", status=code)
    if code == 410 or _is_version_ahead(answer):
        return Gone(f"{task}: {said}", status=code)
    if code == 404 and verb == "create":
        todo = (
            f"Is there a namespace {namespace}? `kubectl apply -f k8s/base/namespace.yaml` makes the namespace radit."
        )
        return ConfigError(f"{task}: {said}", where=where, todo=todo)
    if code == 422:
        todo = "Change the section kubernetes of the configuration; `radit render` shows what it becomes."
        return ConfigError(f"{task}: {said}", todo=todo)
    return ApiError(f"{task}: {said}", where=where, status=code)


def is_passing(code: int, answer: dict[str, Any]) -> bool:
    """Whether the same request may succeed later: 429 and what the server itself blames on itself."""
    return code == 429 or (code >= 500 and code != 501 and not _is_version_ahead(answer))


def retry_after_s(header: str | None, answer: dict[str, Any]) -> float:
    """What the server asks to wait, in seconds; 0 where it does not ask."""
    for said in (header, (answer.get("details") or {}).get("retryAfterSeconds")):
        try:
            return max(0.0, float(said or ""))
        except (TypeError, ValueError):
            continue
    return 0.0


def _forbidden(said: str, task: str, verb: str, what: str, namespace: str) -> RaditError:
    if "exceeded quota" in said:
        return QuotaFull(said, todo="Free some of the quota, or raise it.", status=403)
    if "being terminated" in said:
        return ApiError(f"{task}: {said}", todo="Wait until the namespace is gone, and create it anew.", status=403)
    todo = (
        f"Grant `{verb} {what.split()[0]}` to whoever this is: k8s/base/role.yaml has all that a run needs, "
        f"`kubectl -n {namespace} create rolebinding` binds it, and `radit check` lists what is missing."
    )
    return Forbidden(f"{task}: {said}", todo=todo, status=403)


def _is_version_ahead(answer: dict[str, Any]) -> bool:
    """504 of a server whose storage was set back: it will never reach the resourceVersion that was asked for."""
    causes = (answer.get("details") or {}).get("causes") or ()
    return any(cause.get("reason") == "ResourceVersionTooLarge" for cause in causes)
