"""The Status objects with which an API server says no, in the words of the real one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.servers.kubernetes.resources import Request, Resource

Json = dict[str, Any]


class ApiError(Exception):
    """An answer other than 2xx."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s: int | None = None
        self.status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            **({"reason": reason} if reason else {}),
            **({"details": details} if details is not None else {}),
            "code": code,
        }


def _qualified(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


def _details(resource: Resource, name: str, **more: Any) -> Json:
    group = {"group": resource.group} if resource.group else {}
    return {**({"name": name} if name else {}), **group, **{"kind": resource.plural, **more}}


def not_found(resource: Resource, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{_qualified(resource)} "{name}" not found', _details(resource, name))


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource, name: str) -> ApiError:
    message = f'{_qualified(resource)} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, _details(resource, name))


def conflict(resource: Resource, name: str, why: str, *, plural: bool = True) -> ApiError:
    """Preconditions are refused in the name of the kind, other conflicts in that of the resource."""
    shown = _qualified(resource) if plural else _qualified(resource).replace(resource.plural, resource.kind, 1)
    details = _details(resource, name, **({} if plural else {"kind": resource.kind}))
    return ApiError(409, "Conflict", f'Operation cannot be fulfilled on {shown} "{name}": {why}', details)


def modified(resource: Resource, name: str) -> ApiError:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(resource, name, why)


def invalid(resource: Resource, name: str, causes: Sequence[tuple[str, str, str]]) -> ApiError:
    """Causes are (reason, message, field)."""
    said = [f"{field}: {message}" for _, message, field in causes]
    body = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details = {
        "name": name,
        **({"group": resource.group} if resource.group else {}),
        "kind": resource.kind,
        "causes": [{"reason": reason, "message": message, "field": field} for reason, message, field in causes],
    }
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {body}', details)


def forbidden(resource: Resource, name: str, why: str) -> ApiError:
    subject = f'{_qualified(resource)} "{name}"' if name else _qualified(resource)
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", _details(resource, name))


def not_allowed(request: Request, user: str) -> ApiError:
    """What RBAC says to a user without the verb."""
    resource = request.resource
    scope = f'in the namespace "{request.namespace}"' if request.namespace else "at the cluster scope"
    why = (
        f'User "{user}" cannot {request.verb} resource "{request.full_resource}" '
        f'in API group "{resource.group}" {scope}'
    )
    return forbidden(resource, request.name, why)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def expired(asked: int, oldest: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def expired_continue() -> ApiError:
    message = (
        "The provided continue parameter is too old to display a consistent list result. "
        "You must start a new list without the continue parameter."
    )
    return ApiError(410, "Expired", message)


def too_large_version(asked: int, current: int) -> ApiError:
    details = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}
    error = ApiError(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {current}",
        {**details, "retryAfterSeconds": 1},
    )
    error.retry_after_s = 1
    return error


def unsupported_media_type(what: str) -> ApiError:
    return ApiError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {what}")


def fault(code: int, retry_after_s: int | None = None) -> ApiError:
    """A trouble of the server itself, as `fail_next` orders it."""
    reasons = {
        409: ("Conflict", "Operation cannot be fulfilled: please try again"),
        410: ("Expired", "The resourceVersion for the provided list is too old."),
        429: ("TooManyRequests", "Too many requests, please try again later."),
        500: ("InternalError", "Internal error occurred: etcdserver: leader changed"),
        503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504: ("Timeout", "the server was unable to return a response in the time allotted"),
    }
    reason, message = reasons.get(code, ("", f"status {code}"))
    error = ApiError(code, reason, message, {"retryAfterSeconds": retry_after_s} if retry_after_s is not None else None)
    error.retry_after_s = retry_after_s
    return error


def success(resource: Resource, name: str, uid: str) -> Json:
    """The answer to a delete that took effect at once."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": _details(resource, name, uid=uid),
    }
