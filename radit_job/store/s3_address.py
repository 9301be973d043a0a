"""The URL of a store in a bucket: s3://bucket/prefix?endpoint_url=...&region=... and what else it may say."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, fields
from typing import Literal, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from radit_job.errors import ConfigError

SCHEME = "s3://"
CREDENTIALS_COME_FROM = (
    "Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE), or the pod's identity."
)
CHOICES = {"addressing": ("path", "virtual", "auto"), "sse": ("AES256", "aws:kms", "aws:kms:dsse")}
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")  # older services allow more than AWS does today


@dataclass(frozen=True, slots=True)
class S3Address:
    """Where a store is, and how it is reached; never with what credentials."""

    bucket: str
    prefix: str = ""  # without slashes at its ends
    endpoint_url: str | None = None  # None: as the SDK is configured, or AWS
    region: str | None = None
    addressing: Literal["path", "virtual", "auto"] | None = None  # None: path, but for AWS
    sse: str | None = None  # server-side encryption; None: the bucket's own
    kms_key_id: str | None = None
    ca_bundle: str | None = None  # a file with the CA certificates of the endpoint

    @property
    def url(self) -> str:
        """The URL, with its options in one fixed order."""
        given = {name: value for name in OPTIONS if (value := getattr(self, name)) is not None}
        place = SCHEME + self.bucket + (f"/{self.prefix}" if self.prefix else "")
        return place + (f"?{urlencode(given, safe='/:')}" if given else "")

    @property
    def identity(self) -> str:
        """A short name for the place itself, however it is reached."""
        place = f"{self.endpoint_url or ''}/{self.bucket}/{self.prefix}"
        return hashlib.sha256(place.encode()).hexdigest()[:16]


OPTIONS = tuple(field.name for field in fields(S3Address))[2:]


def parse_address(url: str) -> S3Address:
    """What the URL says; ConfigError, which repeats no credentials, where it cannot be used."""
    place, _, query = url.removeprefix(SCHEME).partition("?")
    bucket, _, prefix = place.partition("/")
    if "@" in bucket:
        raise _refusal("a store's URL must not hold credentials: it is kept in logs and results", CREDENTIALS_COME_FROM)
    if not BUCKET.fullmatch(bucket):
        raise _refusal(f"{bucket!r} is no bucket's name", "Write s3://bucket/prefix.")
    parts = [part for part in prefix.split("/") if part]
    if ".." in parts or "." in parts:
        raise _refusal(f"the prefix {prefix!r} has a part that is only dots", "Write s3://bucket/prefix.")
    return S3Address(bucket, "/".join(parts), **_options(query))  # type: ignore[arg-type]


def _options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise _refusal("what follows the ? is not name=value&name=value", _known()) from None
    options = dict(pairs)
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise _refusal(f"unknown option {', '.join(unknown)} in the store's URL", f"{_known()} {CREDENTIALS_COME_FROM}")
    if len(options) < len(pairs) or "" in options.values():
        raise _refusal("an option in the store's URL is given twice, or without a value", _known())
    for name, choices in CHOICES.items():
        if name in options and options[name] not in choices:
            raise _refusal(f"{name}={options[name]} in the store's URL", f"It is one of {', '.join(choices)}.")
    if "kms_key_id" in options and not options.get("sse", "").startswith("aws:kms"):
        raise _refusal("kms_key_id in the store's URL needs sse=aws:kms", _known())
    if "endpoint_url" in options:
        _check_endpoint(options["endpoint_url"])
    return options


def _check_endpoint(endpoint_url: str) -> None:
    parts = urlsplit(endpoint_url)
    if "@" in parts.netloc:
        raise _refusal("endpoint_url must not hold credentials: it is kept in logs and results", CREDENTIALS_COME_FROM)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _refusal(f"{endpoint_url!r} is no endpoint", "Write endpoint_url=https://host:port.")


def _known() -> str:
    return f"Options are {', '.join(OPTIONS)}."


def _refusal(what: str, todo: str) -> ConfigError:
    return ConfigError(what, where="store", todo=todo)


def split_object_url(url: str) -> tuple[str, str]:
    """(URL of the bucket with the same options, path in the bucket): of files that stand outside any store."""
    address = parse_address(url)
    options = {name: cast(str, getattr(address, name)) for name in OPTIONS}
    return S3Address(address.bucket, "", **options).url, address.prefix  # type: ignore[arg-type]
