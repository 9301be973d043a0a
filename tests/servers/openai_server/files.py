"""Uploaded files."""

from __future__ import annotations

import re
import secrets
import string
import threading
import time
from collections.abc import Mapping
from typing import Any

from tests.servers.openai_server.errors import ApiError

_LETTERS = string.ascii_letters + string.digits


def new_id(prefix: str, length: int = 24) -> str:
    """As OpenAI's: letters and digits after a prefix."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(length))


class Files:
    """What was uploaded, newest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, dict[str, Any]] = {}
        self._data: dict[str, bytes] = {}

    def create(self, filename: str, purpose: str, data: bytes) -> dict[str, Any]:
        """Store a file."""
        row: dict[str, Any] = {
            "object": "file",
            "id": new_id("file-"),
            "purpose": purpose,
            "filename": filename,
            "bytes": len(data),
            "created_at": int(time.time()),
            "expires_at": None,
            "status": "processed",
            "status_details": None,
        }
        with self._lock:
            self._files[row["id"]] = row
            self._data[row["id"]] = data
        return dict(row)

    def list(self) -> list[dict[str, Any]]:
        """All of them, newest first."""
        with self._lock:
            return [dict(row) for row in reversed(self._files.values())]

    def find(self, file_id: str) -> dict[str, Any]:
        """One file's object; 404 if there is none."""
        with self._lock:
            if file_id not in self._files:
                raise ApiError(404, f"No such File object: {file_id}", param="id")
            return dict(self._files[file_id])

    def data(self, file_id: str) -> bytes:
        """One file's content."""
        self.find(file_id)
        with self._lock:
            return self._data[file_id]

    def delete(self, file_id: str) -> dict[str, Any]:
        """Remove one."""
        self.find(file_id)
        with self._lock:
            self._files.pop(file_id, None)
            self._data.pop(file_id, None)
        return {"object": "file", "id": file_id, "deleted": True}


def form_of(content_type: str, body: bytes) -> dict[str, tuple[str | None, bytes]]:
    """Fields of multipart/form-data: name to (file name or None, content as it was sent)."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if boundary is None:
        raise ApiError(400, "Could not parse multipart form")
    fields: dict[str, tuple[str | None, bytes]] = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())[1:]:
        head, blank, content = part.partition(b"\r\n\r\n")
        said = dict(re.findall(r'(\w+)="([^"]*)"', head.decode("utf-8", "replace")))
        if blank and "name" in said:
            fields[said["name"]] = (said.get("filename"), content)
    return fields


def upload(files: Files, content_type: str, body: bytes) -> dict[str, Any]:
    """POST /v1/files."""
    form = form_of(content_type, body)
    purpose = form.get("purpose", (None, b""))[1].decode()
    if "file" not in form:
        raise ApiError(400, "'file' is a required property")
    if not purpose:
        raise ApiError(400, "'purpose' is a required property")
    filename, data = form["file"]
    if purpose == "fine-tune" and not (filename or "").endswith(".jsonl"):
        extension = (filename or "").rpartition(".")[2]
        raise ApiError(400, f'Invalid extension {extension}. Supported formats: "jsonl"', param="file")
    if not data:
        raise ApiError(400, "File is empty.", param="file")
    return files.create(filename or "upload", purpose, data)


def page(rows: list[dict[str, Any]], query: Mapping[str, str], default_limit: int = 20) -> dict[str, Any]:
    """A page of rows after the one that `after` names."""
    ids = [row["id"] for row in rows]
    after = query.get("after")
    if after and after not in ids:
        raise ApiError(400, f"Invalid 'after': no object with id {after}.", param="after")
    start = ids.index(after) + 1 if after else 0
    limit = int(query.get("limit") or default_limit)
    part = rows[start : start + limit]
    return {
        "object": "list",
        "data": part,
        "first_id": part[0]["id"] if part else None,
        "last_id": part[-1]["id"] if part else None,
        "has_more": start + limit < len(rows),
    }
