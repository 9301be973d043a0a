"""What only a store in a bucket has: its URL, its errors, its patience, and scratch that other machines go on from."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from radit_job import hashing, observe
from radit_job.errors import ConfigError, CorruptArtifact, StoreError
from radit_job.store import ObjectStore, open_store
from radit_job.store.artifacts import damage, fetch, publish
from radit_job.store.s3_address import parse_address, split_object_url
from radit_job.store.s3_transfer import PART_BYTES
from tests.servers.faulty_proxy import LOST, Answer, FaultyProxy, Request
from tests.servers.seaweedfs import READER_KEY, READER_SECRET, SECRET_KEY, SeaweedFS

SLOW_DOWN = Answer(503, "SlowDown")


@pytest.fixture
def server(s3_environment: SeaweedFS) -> SeaweedFS:
    return s3_environment


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return f"bucket/{tmp_path.name}"


@pytest.fixture
def store(server: SeaweedFS, prefix: str) -> ObjectStore:
    return open_store(server.store_url(prefix))


@contextmanager
def spoiled(
    server: SeaweedFS, prefix: str, fault: Callable[[Request, int], Answer | str | None], **options: str
) -> Iterator[tuple[ObjectStore, FaultyProxy]]:
    """A store behind a proxy that spoils some of its requests."""
    with FaultyProxy.before(server.endpoint, fault) as proxy:
        url = f"s3://{prefix}?endpoint_url={proxy.endpoint}"
        yield open_store("&".join([url, *(f"{name}={value}" for name, value in options.items())])), proxy


# The URL


def test_a_url_says_where_the_store_is_and_comes_back_whole() -> None:
    url = "s3://bucket/a/b?endpoint_url=https://minio:9000&region=eu&addressing=virtual&sse=aws:kms&kms_key_id=k/1"
    address = parse_address(url + "&ca_bundle=/etc/ca.pem")
    assert (address.bucket, address.prefix, address.endpoint_url) == ("bucket", "a/b", "https://minio:9000")
    assert (address.region, address.addressing, address.kms_key_id) == ("eu", "virtual", "k/1")
    assert address.url == url + "&ca_bundle=/etc/ca.pem"
    assert parse_address(address.url) == address
    assert parse_address("s3://bucket/").url == "s3://bucket"


def test_an_object_s_url_is_its_bucket_s_and_a_path() -> None:
    assert split_object_url("s3://bucket/docs/a.pdf?region=eu") == ("s3://bucket?region=eu", "docs/a.pdf")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://", "no bucket"),
        ("s3:///prefix", "no bucket"),
        ("s3://b/p", "no bucket"),  # two letters are too short
        ("s3://bucket/a/../b", "dots"),
        ("s3://bucket?verbose=1", "unknown option verbose"),
        ("s3://bucket?region=", "without a value"),
        ("s3://bucket?region=a&region=b", "twice"),
        ("s3://bucket?sse=rot13", "AES256"),
        ("s3://bucket?kms_key_id=k", "sse=aws:kms"),
        ("s3://bucket?endpoint_url=minio:9000", "no endpoint"),
        ("s3://bucket?ca_bundle=/no/such/file.pem", "no file"),
    ],
)
def test_what_a_url_cannot_say_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://user:canary@bucket/p",
        "s3://bucket?endpoint_url=http://user:canary@host",
        "s3://bucket?secret_access_key=canary",
        "s3://bucket?canary",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_store(url)
    assert "canary" not in str(raised.value)


def test_other_servers_than_aws_s_are_addressed_by_path(server: SeaweedFS, prefix: str) -> None:
    with spoiled(server, prefix, lambda request, n: None) as (store, proxy):
        store.write("a", b"x")
        assert proxy.seen[0].path == f"/{prefix}/a"
        assert "x-amz-checksum-crc32" not in proxy.seen[0].headers  # which not every server knows


def test_the_endpoint_may_come_from_the_environment(
    server: SeaweedFS, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    open_store(f"s3://{prefix}").write("a", b"x")
    assert open_store(server.store_url(prefix)).read("a") == b"x"


def test_what_is_stored_is_encrypted_as_the_url_says(server: SeaweedFS, prefix: str, tmp_path: Path) -> None:
    def accept(request: Request, n_before: int) -> Answer:
        return Answer(200, "", {"ETag": '"e"'})

    (tmp_path / "file").write_bytes(b"x")
    with spoiled(server, prefix, accept, sse="aws:kms", kms_key_id="k1") as (store, proxy):
        store.write("a", b"x")
        store.create("b", b"x")
        store.upload("c", tmp_path / "file")
        for request in proxy.seen:
            assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
            assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "k1"


# What it waits for


def test_a_create_whose_answer_is_lost_is_still_this_writer_s(server: SeaweedFS, prefix: str) -> None:
    def lose_the_first(request: Request, n_before: int) -> str | None:
        return LOST if n_before == 0 else None

    with spoiled(server, prefix, lose_the_first) as (store, proxy):
        assert store.create("commit", b"same")
        assert not store.create("commit", b"same")  # another's, though of the same bytes
        assert [request.method for request in proxy.seen[:3]] == ["PUT", "PUT", "HEAD"]


@pytest.mark.parametrize("answer", [SLOW_DOWN, Answer(409, "ConditionalRequestConflict"), Answer(500, "InternalError")])
def test_a_server_that_is_busy_for_a_while_is_waited_for(server: SeaweedFS, prefix: str, answer: Answer) -> None:
    with spoiled(server, prefix, lambda request, n: answer if n < 3 else None) as (store, _):
        assert store.create("commit", b"x")
        assert store.read("commit") == b"x"


def test_a_part_that_breaks_off_is_read_again(server: SeaweedFS, prefix: str, tmp_path: Path) -> None:
    data = os.urandom(3 * PART_BYTES + 5)
    (tmp_path / "file").write_bytes(data)

    def lose_some(request: Request, n_before: int) -> str | None:
        return LOST if n_before in (1, 3, 8) else None

    with spoiled(server, prefix, lose_some) as (store, _):
        digest = store.upload("big", tmp_path / "file")
        assert store.download("big", tmp_path / "back") == digest
    assert (tmp_path / "back").read_bytes() == data


def test_a_multipart_upload_whose_last_answer_is_lost_is_done(server: SeaweedFS, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (PART_BYTES + 1))
    completions: list[Request] = []

    def lose_the_completion(request: Request, n_before: int) -> Answer | str | None:
        if request.method != "POST" or "uploadId=" not in request.path:
            return None
        completions.append(request)
        return LOST if len(completions) == 1 else Answer(404, "NoSuchUpload")  # as AWS answers then

    with spoiled(server, prefix, lose_the_completion) as (store, proxy):
        store.upload("big", tmp_path / "file")
        assert [info.n_bytes for info in store.list("big")] == [PART_BYTES + 1]
        assert len(completions) == 2
        assert sum(request.path.endswith("?uploads") for request in proxy.seen) == 1  # it was not sent again


def test_a_multipart_upload_that_the_server_has_lost_begins_anew(
    server: SeaweedFS, prefix: str, tmp_path: Path
) -> None:
    data = os.urandom(PART_BYTES + 1)
    (tmp_path / "file").write_bytes(data)
    completions: list[Request] = []

    def lose_the_upload(request: Request, n_before: int) -> Answer | None:
        if request.method != "POST" or "uploadId=" not in request.path:
            return None
        completions.append(request)
        return Answer(404, "NoSuchUpload") if len(completions) == 1 else None

    with spoiled(server, prefix, lose_the_upload) as (store, _):
        digest = store.upload("big", tmp_path / "file")
        assert len(completions) == 2
        assert store.download("big", tmp_path / "back") == digest
    assert (tmp_path / "back").read_bytes() == data


def test_an_upload_that_fails_leaves_no_parts(server: SeaweedFS, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (2 * PART_BYTES + 1))

    def refuse_the_third_part(request: Request, n_before: int) -> Answer | None:
        return Answer(403, "AccessDenied") if "partNumber=3" in request.path else None

    with spoiled(server, prefix, refuse_the_third_part) as (store, proxy):
        with pytest.raises(StoreError, match="access denied to upload_part"):
            store.upload("big", tmp_path / "file")
        assert list(store.list("")) == []
        assert proxy.seen[-2].method == "DELETE"  # the last one is the listing


def test_patience_ends_and_says_so(server: SeaweedFS, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADIT_STORE_PATIENCE_S", "0.3")
    unwell = Answer(500, "InternalError")
    with (
        spoiled(server, prefix, lambda request, n: unwell) as (store, _),
        pytest.raises(StoreError, match="busy or not well"),
    ):
        store.read("a")


def test_waiting_is_told(monkeypatch: pytest.MonkeyPatch, server: SeaweedFS) -> None:
    monkeypatch.setattr("radit_job.store.s3.WARN_AFTER_S", 0.0)
    events: list[dict[str, Any]] = []
    observe.send_events_to(events.append)
    try:
        with pytest.raises(StoreError, match="no connection"):
            open_store("s3://bucket/p?endpoint_url=http://127.0.0.1:9", patience_s=1.0).read("a")
    finally:
        observe.send_events_to(lambda event: None)
    assert "trying for" in events[0]["message"]


def test_a_nonsensical_patience_is_refused(server: SeaweedFS, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADIT_STORE_PATIENCE_S", "long")
    with pytest.raises(ConfigError, match="long"):
        open_store(server.store_url(prefix))


@pytest.mark.slow
def test_a_server_killed_in_mid_upload_and_started_again_is_waited_for(tmp_path: Path, monkeypatch: Any) -> None:
    """As when its pod moves to another node; nothing of the artifact is missing, and nothing of it is there twice."""
    data = os.urandom(100_000_000)
    weights = tmp_path / "out" / "lm" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(data)
    with SeaweedFS.started(tmp_path / "server") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        arrived = threading.Event()

        def watch(request: Request, n_before: int) -> None:
            if "partNumber=3" in request.path:
                arrived.set()

        def kill_and_start() -> None:
            arrived.wait(60)
            server.restart()

        with spoiled(server, "bucket/p", watch) as (store, _):
            thread = threading.Thread(target=kill_and_start)
            thread.start()
            manifest, won = publish(store, "finetune_lm", "k", tmp_path / "out", ["lm"], {})
            thread.join()
            assert won and arrived.is_set()
            assert damage(store, manifest) is None
            assert (fetch(store, manifest, "lm", tmp_path / "in") / "model.safetensors").read_bytes() == data
            assert sum(1 for _ in store.list("artifacts/")) == 3  # file, result, manifest


# What cannot be waited for


def refusal(store: ObjectStore) -> str:
    began_s = time.monotonic()
    with pytest.raises(StoreError) as raised:
        store.write("a", b"x")
    assert time.monotonic() - began_s < 20  # at once, not after two minutes of patience
    assert raised.value.where and raised.value.todo
    assert SECRET_KEY not in str(raised.value) and "canary" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 2
    return str(raised.value)


def test_a_wrong_secret_is_named(server: SeaweedFS, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-wrong")
    said = refusal(open_store(server.store_url(prefix)))
    assert "refuses the credentials" in said and "AWS_SECRET_ACCESS_KEY" in said


def test_an_unknown_key_is_named(server: SeaweedFS, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    assert "InvalidAccessKeyId" in refusal(open_store(server.store_url(prefix)))


def test_no_credentials_are_named(server: SeaweedFS, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    assert "no credentials" in refusal(open_store(server.store_url(prefix)))


def test_a_missing_bucket_is_named(server: SeaweedFS, tmp_path: Path) -> None:
    store = open_store(server.store_url("nosuchbucket/p"))
    assert "no bucket 'nosuchbucket'" in refusal(store)
    for read in (lambda: store.read("a"), lambda: list(store.list("")), lambda: store.download("a", tmp_path / "a")):
        with pytest.raises(StoreError, match="no bucket 'nosuchbucket'"):
            read()


def test_missing_rights_are_listed(server: SeaweedFS, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    said = refusal(open_store(server.store_url(prefix)))
    assert "access denied to put_object" in said and f"{prefix}/*" in said


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}), "region=eu-west-1"),
        (Answer(400, "ExpiredToken"), "expired"),
        (Answer(403, "RequestTimeTooSkewed"), "clock"),
        (Answer(501, "NotImplemented"), "If-None-Match"),
        (Answer(507, "XMinioStorageFull"), "no space"),
        (Answer(400, "KMS.DisabledException"), "kms_key_id"),
    ],
)
def test_what_a_server_refuses_comes_with_advice(server: SeaweedFS, prefix: str, answer: Answer, says: str) -> None:
    with spoiled(server, prefix, lambda request, n: answer) as (store, _):
        assert says in refusal(store)


def test_a_certificate_is_trusted_only_with_its_ca(server: SeaweedFS, prefix: str, tmp_path: Path) -> None:
    certificate, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*make.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    with FaultyProxy.before(server.endpoint, lambda request, n: None, tls=(certificate, key)) as proxy:
        url = f"s3://{prefix}?endpoint_url={proxy.endpoint}"
        assert "ca_bundle=" in refusal(open_store(url))
        trusting = open_store(f"{url}&ca_bundle={certificate}")
        trusting.write("a", b"x")
        assert trusting.read("a") == b"x"


# Scratch


class Machines:
    """The same store as other machines see it: each with a scratch folder of its own."""

    def __init__(self, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url, self.folder, self.monkeypatch = url, folder, monkeypatch

    def __call__(self, name: str) -> ObjectStore:
        self.monkeypatch.setenv("RADIT_SCRATCH", str(self.folder / name))
        return open_store(self.url)


@pytest.fixture
def machine(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(store.url, tmp_path, monkeypatch)


def checkpoint(folder: Path, step: int) -> None:
    """As training/checkpoint.py: a folder of two files, put in place by rename, and the one before it deleted."""
    unfinished = folder / "unfinished"
    unfinished.mkdir()
    (unfinished / "tensors").write_text(f"tensors {step}")
    (unfinished / "state.json").write_text(f"state {step}")
    unfinished.rename(folder / f"step-{step}")
    for older in folder.glob("step-*"):
        if older.name != f"step-{step}":
            (older / "tensors").unlink()
            (older / "state.json").unlink()
            older.rmdir()


def seen(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_another_machine_goes_on_from_what_was_saved_last(machine: Machines) -> None:
    first = machine("a")
    folder = first.scratch("lm/k")
    checkpoint(folder, 1)
    first.keep_scratch("lm/k")
    checkpoint(folder, 2)
    (folder / "best").write_text("2")
    first.keep_scratch("lm/k")
    checkpoint(folder, 3)  # not saved
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "tensors").write_text("half")
    (folder / "arm.partial").write_text("half")
    second = machine("b")
    after = {"step-2/tensors": "tensors 2", "step-2/state.json": "state 2", "best": "2"}
    assert seen(second.scratch("lm/k")) == after
    assert len(list(second.list("scratch/lm/k/files/"))) == 3  # what step 1 had saved is gone
    first.keep_scratch("lm/k")
    assert set(seen(machine("c").scratch("lm/k"))) == {"step-3/tensors", "step-3/state.json", "best"}


def test_a_saving_that_is_cut_off_leaves_the_one_before_it_whole(
    machine: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine("a")
    folder = first.scratch("lm/k")
    checkpoint(folder, 1)
    first.keep_scratch("lm/k")
    checkpoint(folder, 2)
    upload, done = first.upload, []

    def die_at_the_second(name: str, path: Path) -> str:
        if done:
            raise StoreError("the pod is gone")
        done.append(name)
        return upload(name, path)

    monkeypatch.setattr(first, "upload", die_at_the_second)
    with pytest.raises(StoreError):
        first.keep_scratch("lm/k")
    assert seen(machine("b").scratch("lm/k")) == {"step-1/tensors": "tensors 1", "step-1/state.json": "state 1"}


def test_a_machine_goes_on_from_its_own_folder_unless_another_saved_since(machine: Machines) -> None:
    first = machine("a")
    folder = first.scratch("lm/k")
    checkpoint(folder, 1)
    first.keep_scratch("lm/k")
    checkpoint(folder, 2)  # newer than what is saved
    assert "step-2/tensors" in seen(machine("a").scratch("lm/k"))
    second = machine("b")
    checkpoint(second.scratch("lm/k"), 7)
    second.keep_scratch("lm/k")
    assert set(seen(machine("a").scratch("lm/k"))) == {"step-7/tensors", "step-7/state.json"}


def test_a_file_that_grows_while_it_is_saved_has_what_its_mark_vouches_for(
    machine: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As stages/index.py: the vectors grow in place, and then the mark that counts them is replaced."""
    first = machine("a")
    folder = first.scratch("index/k")

    def grow(n_rows: int) -> None:
        with (folder / "vectors").open("a") as file:
            file.write("row\n" * n_rows)
        (folder / "mark.partial").write_text(str((folder / "vectors").read_text().count("row")))
        (folder / "mark.partial").replace(folder / "mark")

    grow(3)
    upload = first.upload

    def grow_meanwhile(name: str, path: Path) -> str:
        grow(2)
        return upload(name, path)

    monkeypatch.setattr(first, "upload", grow_meanwhile)
    first.keep_scratch("index/k")
    found = seen(machine("b").scratch("index/k"))
    assert int(found["mark"]) == 3 <= found["vectors"].count("row")


def test_what_did_not_change_since_the_last_saving_is_not_read_again(
    machine: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine("a")
    folder = first.scratch("lm/k")
    hashed: list[str] = []

    def digest_file(path: Path) -> str:
        hashed.append(path.name)
        return hashing.digest_file(path)

    monkeypatch.setattr("radit_job.store.scratch.digest_file", digest_file)
    for name in ("one", "two"):
        (folder / name).write_text(name)
    first.keep_scratch("lm/k")
    hashed.clear()
    first.keep_scratch("lm/k")
    assert hashed == []
    with (folder / "two").open("a") as file:
        file.write(" more")
    first.keep_scratch("lm/k")
    assert hashed == ["two"]
    second = machine("b")
    assert seen(second.scratch("lm/k")) == {"one": "one", "two": "two more"}
    second.drop_scratch("lm/k")  # what another machine deleted is saved again, though it looks as before
    first.keep_scratch("lm/k")
    assert seen(machine("c").scratch("lm/k")) == {"one": "one", "two": "two more"}


def test_saved_files_that_are_lost_mean_a_new_beginning(machine: Machines) -> None:
    first = machine("a")
    checkpoint(first.scratch("lm/k"), 1)
    first.keep_scratch("lm/k")
    first.delete(next(first.list("scratch/lm/k/files/")).name)
    assert seen(machine("b").scratch("lm/k")) == {}
    first.write("scratch/lm/k/index.json", json.dumps({"format": 1, "files": [{"path": "../x"}]}).encode())
    assert seen(machine("c").scratch("lm/k")) == {}


def test_an_object_that_changes_in_mid_download_is_not_mixed(
    server: SeaweedFS, prefix: str, store: ObjectStore, tmp_path: Path
) -> None:
    (tmp_path / "old").write_bytes(b"o" * (PART_BYTES + 1))
    (tmp_path / "new").write_bytes(b"n" * (PART_BYTES + 1))
    store.upload("big", tmp_path / "old")

    def replace_it(request: Request, n_before: int) -> None:
        if n_before == 1:
            store.upload("big", tmp_path / "new")

    with (
        spoiled(server, prefix, replace_it) as (behind, _),
        pytest.raises(StoreError, match="changed while it was read"),
    ):
        behind.download("big", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    with pytest.raises(CorruptArtifact):
        store.download("gone", tmp_path / "back")
