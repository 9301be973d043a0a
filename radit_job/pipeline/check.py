"""Everything that can be known before spending time. Each finding says what was looked at and what was seen."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from radit_job.config.loading import LoadedConfig
from radit_job.config.models import Model
from radit_job.errors import StoreError
from radit_job.models.identity import model_identity
from radit_job.pipeline.check_served import served_findings
from radit_job.pipeline.findings import Finding, attempt
from radit_job.pipeline.graph import needed_rows
from radit_job.pipeline.planner import resources_of
from radit_job.pipeline.sources import find_sources
from radit_job.store import ObjectStore

GIB = 1 << 30
FREE_DISK_GIB = 4.0  # two model copies in float32, a checkpoint, and room to breathe


def findings(loaded: LoadedConfig, store: ObjectStore, *, by_pods: bool = False) -> Iterator[Finding]:
    """Look at the settings, the files, the models and the store; nothing that a run needs is changed.

    `by_pods`: the stages will run in a cluster, and what this machine lacks they may have.
    """
    yield Finding("config", "ok", f"{loaded.path}: {len(needed_rows(loaded.config))} stages")
    yield from attempt("documents", lambda: _documents(loaded))
    models = loaded.config.models
    for name, model in (
        ("embedder", models.embedder),
        ("lm", models.lm),
        ("writer", models.question_writer),
        ("judge", models.judge),
    ):
        is_used = name != "writer" or loaded.config.questions.source == "generate"
        if model is not None and is_used and model.provider != "openai":
            yield from attempt(name, partial(_model, name, model))
    yield from served_findings(loaded.config, by_pods=by_pods)
    yield from attempt("store", lambda: _store(store))


def local_findings(loaded: LoadedConfig) -> Iterator[Finding]:
    """Look at this machine, which is to run the stages."""
    yield _memory(loaded)


def _documents(loaded: LoadedConfig) -> list[Finding]:
    found = []
    for source in find_sources(loaded.config, loaded.folder):
        n_bytes = sum(file.path.stat().st_size for file in source.files)
        names = ", ".join(file.name for file in source.files[:3]) + (", ..." if len(source.files) > 3 else "")
        subject = "documents" if source.artifact == "corpus" else "questions"
        found.append(Finding(subject, "ok", f"{len(source.files)} file(s), {n_bytes / 1e6:.1f} MB: {names}"))
    return found


def _model(role: str, model: Model) -> Finding:
    identity = model_identity(model.ref())
    subject = f"{model.provider} {model.name}"
    if model.provider == "huggingface" and model.revision is None and not Path(model.name).expanduser().is_dir():
        return Finding(
            "model", "warn", f"{subject}: no revision is pinned, so the hub may change it under you; now {identity}"
        )
    return Finding(role, "ok", f"{subject}, {identity[:23]}")


def _store(store: ObjectStore) -> Finding:
    """Write, read and conditionally create one object, as a run does."""
    name = f"locks/check-{uuid.uuid4().hex[:8]}"
    try:
        first, second = store.create(name, b"radit"), store.create(name, b"again")
        is_sound = first and not second and store.read(name) == b"radit"
    finally:
        store.delete(name)
    if not is_sound:
        raise StoreError(
            "it ignores conditional puts (If-None-Match: *), so two writers could both commit",
            where=store.url,
            todo="Take a server that honours them: AWS S3, MinIO, SeaweedFS, Ceph from Squid on, Google Cloud Storage.",
        )
    if "://" in store.url:
        return Finding("store", "ok", f"{store.url}: writable, conditional puts honoured")
    free_gib = shutil.disk_usage(store.url).free / GIB
    verdict: Literal["ok", "warn"] = "ok" if free_gib > FREE_DISK_GIB else "warn"
    advice = "" if verdict == "ok" else f"; a run of the packaged models takes about {FREE_DISK_GIB:.0f} GiB"
    return Finding("store", verdict, f"{store.url}: writable, {free_gib:.0f} GiB free{advice}")


def _memory(loaded: LoadedConfig) -> Finding:
    has_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    needs = {row.name: resources_of(row, loaded.config, 1).memory_gib for row in needed_rows(loaded.config)}
    largest = max(needs, key=needs.__getitem__)
    says = f"{has_gib:.0f} GiB; {largest} takes up to {needs[largest]:.0f} GiB with the packaged models"
    return Finding("memory", "ok" if has_gib > needs[largest] else "warn", says)
