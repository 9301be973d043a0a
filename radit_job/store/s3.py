"""A store in a bucket, of AWS or of any server with conditional puts. The only module that imports boto3."""

from __future__ import annotations

import math
import os
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

from radit_job import observe
from radit_job.errors import ConfigError, CorruptArtifact, StoreError
from radit_job.store.locks import hold_file
from radit_job.store.objects import ObjectInfo, object_path
from radit_job.store.s3_address import S3Address, parse_address
from radit_job.store.s3_errors import NOT_THERE, code_of, is_passing, to_store_error
from radit_job.store.s3_transfer import WRITER, Transfers
from radit_job.store.scratch import MirroredScratch, own_folder

PATIENCE_S = 120.0  # how long a server may be away; RADIT_STORE_PATIENCE_S sets another
MAX_PAUSE_S = 5.0
WARN_AFTER_S = 3.0
N_CONNECTIONS = 64
SDK_FAILURES = (BotoCoreError, ClientError, ValueError, OSError)  # ValueError: an endpoint that is none


class S3Store:
    """An ObjectStore in a bucket."""

    def __init__(self, address: S3Address, patience_s: float | None = None) -> None:
        self._address = address
        self._root = f"{address.prefix}/" if address.prefix else ""
        self._patience_s = _patience_s() if patience_s is None else patience_s
        self._client = connect(address)
        kms_key = {"SSEKMSKeyId": address.kms_key_id} if address.kms_key_id else {}
        self._stored_as = {"ServerSideEncryption": address.sse, **kms_key} if address.sse else {}
        self._transfers = Transfers(self._call, self._try_once, self._stored_as)
        self._local = own_folder() / address.identity
        self._scratch = MirroredScratch(self, self._local)

    @property
    def url(self) -> str:
        """The URL with its options; credentials are never in it."""
        return self._address.url

    def read(self, name: str) -> bytes | None:
        """See ObjectStore."""
        try:
            data: bytes = self._call("get_object", Key=self._key(name))["Body"]
        except StoreError as error:
            if _is_absent(error):
                return None
            raise
        return data

    def write(self, name: str, data: bytes) -> None:
        """See ObjectStore."""
        self._call("put_object", Key=self._key(name), Body=data, **self._stored_as)

    def create(self, name: str, data: bytes) -> bool:
        """See ObjectStore; a conditional put (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).

        The answer to a put may be lost, and its repetition finds the name taken: whose object it is tells its metadata.
        """
        writer, key = uuid.uuid4().hex, self._key(name)
        try:
            self._call("put_object", Key=key, Body=data, IfNoneMatch="*", Metadata={WRITER: writer}, **self._stored_as)
        except StoreError as error:
            if _code(error) not in ("PreconditionFailed", "412"):
                raise
            return self._transfers.wrote(key, writer)  # not, where it is another's, and deleted since
        return True

    def upload(self, name: str, path: Path) -> str:
        """See ObjectStore."""
        return self._transfers.send(self._key(name), path)

    def download(self, name: str, path: Path) -> str:
        """See ObjectStore."""
        try:
            return self._transfers.fetch(self._key(name), path)
        except StoreError as error:
            if _is_absent(error):
                raise CorruptArtifact(f"{name} is not there", where=self.url) from error
            raise
        except OSError as error:
            raise StoreError(f"cannot write {path.name}: {error.strerror}", where=str(path.parent)) from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore; sorted here, for not every server lists names as S3 does."""
        root = self._root
        found: list[ObjectInfo] = []
        more: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=root + prefix, **more)
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):  # a "folder", as consoles make them
                    name = item["Key"].removeprefix(root)
                    found.append(ObjectInfo(name, item["Size"], item["LastModified"].timestamp()))
            if not page.get("IsTruncated"):
                break
            more = {"ContinuationToken": page["NextContinuationToken"]}
        yield from sorted(found, key=lambda info: info.name)

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        self._call("delete_object", Key=self._key(name))

    def scratch(self, name: str) -> Path:
        """See ObjectStore; below RADIT_SCRATCH, or the system's folder for temporary files."""
        return self._scratch.open(name)

    def keep_scratch(self, name: str) -> bool:
        """See ObjectStore."""
        return self._scratch.keep(name)

    def drop_scratch(self, name: str) -> None:
        """See ObjectStore."""
        self._scratch.drop(name)

    def hold(self, name: str, *, wait: bool = False) -> AbstractContextManager[None]:
        """See ObjectStore."""
        path = self._local / "locks" / object_path(name, self.url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        except OSError as error:
            raise StoreError(f"cannot be written: {error.strerror}", where=str(path)) from error
        return hold_file(file, name, self.url, wait=wait)

    def _key(self, name: str) -> str:
        return self._root + object_path(name, self.url).as_posix()

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Call the client's method; a passing trouble is waited for, any failure is a StoreError that it caused."""
        began_s: float | None = None
        pause_s, warned = 0.2, False
        while True:
            try:
                return self._once(operation, arguments)
            except SDK_FAILURES as error:
                now_s = time.monotonic()
                began_s = now_s if began_s is None else began_s
                left_s = began_s + self._patience_s - now_s
                if not is_passing(error) or left_s <= 0:
                    raise to_store_error(error, self._address, operation) from error
                if now_s - began_s > WARN_AFTER_S and not warned:
                    warned = True
                    what = to_store_error(error, self._address, operation).what
                    observe.warn(f"the store: {what}; trying for {left_s:.0f} s more", store=self.url)
            time.sleep(min(pause_s * random.uniform(0.5, 1.0), left_s))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _once(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = getattr(self._client, operation)(Bucket=self._address.bucket, **arguments)
        if "Body" in reply:
            with reply["Body"] as body:
                reply["Body"] = body.read()
        return reply

    def _try_once(self, operation: str, arguments: dict[str, Any]) -> None:
        try:
            self._once(operation, arguments)
        except SDK_FAILURES as error:
            observe.log(f"{operation} failed", error=type(error).__name__)


def connect(address: S3Address) -> Any:
    """A client, with credentials by the SDK's own chain; nothing is asked of the server yet."""
    if address.ca_bundle and not Path(address.ca_bundle).is_file():
        raise ConfigError(f"there is no file {address.ca_bundle}", where="store", todo="Correct ca_bundle in its URL.")
    try:
        session = boto3.session.Session()
        client = partial(_client, session, address)
        if address.endpoint_url is None or _is_aws(address.endpoint_url):
            made = client(address.addressing, {})
            if _is_aws(made.meta.endpoint_url):  # no other one is configured
                return made
        # Other servers have no name for each bucket, and not all of them know the SDK's newer checksums. Their bytes
        # are checked all the same: a request without a checksum is signed over the sha256 of its body.
        plain = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
        return client(address.addressing or "path", plain)
    except SDK_FAILURES as error:
        raise to_store_error(error, address, "connect") from error


def _client(session: Any, address: S3Address, addressing: str | None, options: dict[str, Any]) -> Any:
    config = Config(
        retries={"mode": "adaptive", "total_max_attempts": 2},  # and then our own patience
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=N_CONNECTIONS,
        tcp_keepalive=True,
        user_agent_extra="radit-job",
        **({"s3": {"addressing_style": addressing}} if addressing else {}),
        **options,
    )
    return session.client(
        "s3",
        region_name=address.region,
        endpoint_url=address.endpoint_url,
        verify=address.ca_bundle,  # None: AWS_CA_BUNDLE, or the SDK's own list
        config=config,
    )


def _is_aws(endpoint_url: str) -> bool:
    host = urlsplit(endpoint_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _is_absent(error: StoreError) -> bool:
    return _code(error) in NOT_THERE


def _code(error: StoreError) -> str:
    return code_of(error.__cause__) if error.__cause__ else ""


def _patience_s() -> float:
    text = os.environ.get("RADIT_STORE_PATIENCE_S", "")
    try:
        seconds = float(text) if text else PATIENCE_S
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(
            f"{text!r} is no number of seconds", where="RADIT_STORE_PATIENCE_S", todo="Correct or unset it."
        )
    return seconds


def open_bucket(url: str, patience_s: float | None = None) -> S3Store:
    """The store at an s3:// URL."""
    return S3Store(parse_address(url), patience_s)
