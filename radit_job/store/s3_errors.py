"""What an S3 server or its SDK said, as one message with advice: pure, and without any secret.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import re
from typing import Any

from botocore import exceptions as sdk  # type: ignore[import-untyped]

from radit_job.errors import StoreError
from radit_job.store.s3_address import CREDENTIALS_COME_FROM, S3Address

PASSING_CODE = re.compile(
    "Throttl|SlowDown|TooManyRequests|LimitExceeded|RequestTimeout|Busy|Unavailable|InternalError"
    "|OperationAborted|ConditionalRequestConflict"
)
FINAL_5XX = (501, 505, 507)  # not implemented, wrong HTTP version, disk full: waiting does not help
OTHER_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301", "307")
EXPLAINED = (
    (
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "NotSignedUp", "AccountProblem"),
        "the server refuses the credentials",
        f"Check them. {CREDENTIALS_COME_FROM}",
    ),
    (
        ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "RequestExpired"),
        "the credentials have expired",
        "Get new ones, and run again: what is committed is kept.",
    ),
    (("RequestTimeTooSkewed",), "this machine's clock is wrong, so its signatures are refused", "Set the clock."),
    (
        ("XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "507"),
        "the server has no space left",
        "Free some space there, or `radit gc`, and run again.",
    ),
    (("PreconditionFailed", "412"), "the object changed while it was read", "Run again."),
    (("KeyTooLongError",), "a name is too long for a bucket: 1,024 bytes with its folders", "Shorten it."),
)
NOT_THERE = ("NoSuchKey", "404", "NotFound")


def code_of(error: BaseException) -> str:
    """The server's error code; empty where the server did not answer. A HEAD has only the HTTP status for one."""
    return str(_reply(error).get("Error", {}).get("Code", ""))


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed in a while."""
    if isinstance(error, sdk.ClientError):
        status = _status(error)
        if PASSING_CODE.search(code_of(error)) or status == 429:
            return True
        return status >= 500 and status not in FINAL_5XX
    if isinstance(error, sdk.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    return isinstance(error, sdk.HTTPClientError | sdk.ConnectionError | sdk.IncompleteReadError)


def to_store_error(error: Exception, address: S3Address, operation: str) -> StoreError:
    """The message for a failed call of the SDK's method `operation`."""
    what, todo = _explain(error, address, operation)
    return StoreError(what, where=address.url, todo=todo)


def _explain(error: Exception, address: S3Address, operation: str) -> tuple[str, str | None]:
    if isinstance(error, sdk.ClientError):
        return _explain_reply(error, address, operation)
    if isinstance(error, sdk.NoCredentialsError):
        return "there are no credentials", CREDENTIALS_COME_FROM
    if isinstance(error, sdk.PartialCredentialsError):
        return "the credentials are incomplete: an access key needs its secret key", CREDENTIALS_COME_FROM
    if isinstance(error, sdk.ProfileNotFound):
        return str(error), "Correct AWS_PROFILE, or unset it."
    if isinstance(error, sdk.SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return (
                "the endpoint's certificate is not trusted",
                "Give its CA with ca_bundle=/path/ca.pem in the store's URL, or with AWS_CA_BUNDLE.",
            )
        return "the endpoint speaks no TLS that we understand", "Is it http:// instead of https://?"
    if isinstance(error, sdk.ProxyConnectionError):
        return "the proxy does not answer", "Look at HTTPS_PROXY and NO_PROXY."
    if isinstance(error, sdk.ConnectTimeoutError | sdk.ReadTimeoutError):
        return (
            "the server did not answer in time",
            "Is it up, and reachable from here? A firewall would look like this.",
        )
    if isinstance(error, sdk.EndpointConnectionError):
        return "there is no connection to the server", "Is endpoint_url right, and the server up?"
    if isinstance(error, sdk.HTTPClientError | sdk.ConnectionError | sdk.IncompleteReadError):
        return "the connection to the server broke off", "Run again: what is committed is kept."
    if isinstance(error, sdk.CredentialRetrievalError | sdk.TokenRetrievalError | sdk.SSOError):
        return f"the credentials cannot be had ({type(error).__name__})", CREDENTIALS_COME_FROM
    return f"{operation} failed: {type(error).__name__}: {error}", None


def _explain_reply(error: sdk.ClientError, address: S3Address, operation: str) -> tuple[str, str | None]:
    code, status = code_of(error), _status(error)
    if code == "NoSuchBucket":
        return f"there is no bucket {address.bucket!r}", "Create it, or give another one with --store."
    if code in OTHER_REGION:
        return _explain_region(error, address)
    for codes, what, todo in EXPLAINED:
        if code in codes:
            return f"{what} ({code})", todo
    if code.startswith("KMS."):
        return f"the key of the encryption cannot be used ({code})", "Check kms_key_id and the rights to use the key."
    if code == "AccessDenied" or status in (401, 403):
        return f"access denied to {operation}", _needed_rights(address)
    if status == 501 or code == "NotImplemented":
        return (
            f"the server does not know how to {operation} as asked",
            "The store needs conditional puts (If-None-Match) and multipart uploads: take a server that has them.",
        )
    if is_passing(error):
        return f"the server is busy or not well ({code or status})", "Try again later: what is committed is kept."
    said = str(_reply(error).get("Error", {}).get("Message", ""))[:200]
    return f"{operation} failed: {code}{': ' if said else ''}{said}", None


def _needed_rights(address: S3Address) -> str:
    place = "/".join(part for part in (address.bucket, address.prefix, "*") if part)
    kms = ", and the rights to use its KMS key" if (address.sse or "").startswith("aws:kms") else ""
    actions = "s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload"
    return f"The identity needs s3:ListBucket on the bucket, and {actions} on {place}{kms}."


def _explain_region(error: sdk.ClientError, address: S3Address) -> tuple[str, str]:
    reply = _reply(error)
    headers = reply.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or reply.get("Error", {}).get("Region")
    if region:
        return f"the bucket {address.bucket!r} is in the region {region}", f"Put region={region} into the store's URL."
    return (
        f"the bucket {address.bucket!r} is reached at another endpoint or in another region",
        "Put region=... into the store's URL.",
    )


def _reply(error: BaseException) -> dict[str, Any]:
    reply: dict[str, Any] = getattr(error, "response", None) or {}
    return reply


def _status(error: BaseException) -> int:
    return int(_reply(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
