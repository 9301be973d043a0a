"""Errors as OpenAI answers them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import json

PAGE = (
    "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n<center><h1>{status} {reason}</h1></center>"
    "\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"
)


class ApiError(Exception):
    """An answer that is not the one that was asked for."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.headers = headers or {}

    @property
    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}, indent=2).encode()


def wrong_key(authorization: str, *, whole: bool) -> ApiError:
    """401, with the key in its message: its ends, as OpenAI does, or all of it, as careless proxies do."""
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key:
        return ApiError(
            401,
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
            "auth (i.e. Authorization: Bearer YOUR_KEY). You can obtain an API key from "
            "https://platform.openai.com/account/api-keys.",
        )
    shown = key if whole else f"{key[:8]}{'*' * max(len(key) - 12, 8)}{key[-4:]}"
    return ApiError(
        401,
        f"Incorrect API key provided: {shown}. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    )


def rate_limited(model: str, what: str, limit: int, used: int, asked: int, wait_s: float) -> ApiError:
    """429 that passes; `what` is "requests per min (RPM)" or "tokens per min (TPM)"."""
    kind = "tokens" if "token" in what else "requests"
    return ApiError(
        429,
        f"Rate limit reached for {model} in organization org-test on {what}: Limit {limit}, Used {used}, Requested "
        f"{asked}. Please try again in {duration(wait_s)}. Visit https://platform.openai.com/account/rate-limits to "
        "learn more.",
        kind=kind,
        code="rate_limit_exceeded",
    )


def no_quota() -> ApiError:
    """429 that does not pass."""
    return ApiError(
        429,
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
        kind="insufficient_quota",
        code="insufficient_quota",
    )


def no_model(model: str) -> ApiError:
    """404."""
    return ApiError(404, f"The model `{model}` does not exist or you do not have access to it.", code="model_not_found")


def too_long(limit: int, n_tokens: int, n_asked: int = 0) -> ApiError:
    """400: the messages, or the messages and the completion that was asked for, exceed the context."""
    if n_asked:
        message = (
            f"This model's maximum context length is {limit} tokens. However, you requested {n_tokens + n_asked} "
            f"tokens ({n_tokens} in the messages, {n_asked} in the completion). Please reduce the length of the "
            "messages or completion."
        )
    else:
        message = (
            f"This model's maximum context length is {limit} tokens. However, your messages resulted in {n_tokens} "
            "tokens. Please reduce the length of the messages."
        )
    return ApiError(400, message, param="messages", code="context_length_exceeded")


def missing(param: str) -> ApiError:
    """400: a parameter that must be there."""
    return ApiError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def filtered() -> ApiError:
    """400: the prompt itself was refused."""
    return ApiError(
        400,
        "The response was filtered due to the prompt triggering the content management policy. Please modify your "
        "prompt and retry.",
        param="prompt",
        code="content_filter",
    )


def unsupported(param: str) -> ApiError:
    """400: this model does not take a parameter."""
    if param == "response_format":
        message = "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."
        return ApiError(400, message, param=param)
    hint = " Use 'max_completion_tokens' instead." if param == "max_tokens" else ""
    message = f"Unsupported parameter: '{param}' is not supported with this model.{hint}"
    return ApiError(400, message, param=param, code="unsupported_parameter")


def server_error(status: int) -> ApiError:
    """500 and 503 in OpenAI's words."""
    if status == 503:
        message = "The engine is currently overloaded, please try again later"
        return ApiError(503, message, kind="service_unavailable_error", code="service_unavailable")
    message = (
        "The server had an error while processing your request. Sorry about that! You can retry your request, or "
        "contact us through our help center at help.openai.com if the error persists."
    )
    return ApiError(status, message, kind="server_error", code="server_error" if status != 500 else None)


def duration(wait_s: float) -> str:
    """As the rate limit headers write it: 120ms, 1.5s, 6m0s."""
    if wait_s < 1:
        return f"{max(round(wait_s * 1000), 0)}ms"
    minutes, left_s = divmod(wait_s, 60)
    return f"{int(minutes)}m{left_s:.3g}s" if minutes else f"{left_s:.4g}s"
