"""What exactly a model is: a name for its content, which becomes part of a stage's key.

Imports no deep-learning library, for the controller asks here.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

from radit_job.errors import InputError, ServiceError
from radit_job.hashing import digest, digest_file, digest_text
from radit_job.model_ref import ModelRef
from radit_job.models.packaged import cache_folder, packaged_files

MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")  # configuration, weights, tokenizer
COMMIT = re.compile(r"[0-9a-f]{40}")


def model_identity(ref: ModelRef) -> str:
    """The model's identity: equal for equal content.

    packaged and local folders: sha256 over their files, remembered by path, size and modification time. A hub id:
    `name@commit`. A served model is known by its name and its server alone: nobody here can see whether it changed.
    """
    if ref.provider == "packaged":
        return _digest_files(packaged_files(ref.name))
    if ref.provider == "openai":
        return f"{ref.name}@{ref.base_url}"
    folder = local_folder(ref.name)
    if folder is not None:
        return _digest_files(model_files(folder))
    return f"{ref.name}@{hub_commit(ref.name, ref.revision)}"


def local_folder(name: str) -> Path | None:
    """The folder that a huggingface name means, or None for a hub id; InputError for a path that leads nowhere."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError("a model is a folder, but this is a file", where=name)
    if name.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise InputError(
            "there is no such model folder",
            where=name,
            todo="give a folder with config.json, or a hub id such as org/name",
        )
    return None


def model_files(folder: Path) -> list[Path]:
    """A model folder's files; InputError if the folder is not a model that can be loaded safely.

    A folder of transformers has config.json and its weights beside it; one of sentence-transformers has modules.json,
    and each module may have a folder of its own.
    """
    todo = "give a folder that save_pretrained wrote: config.json, *.safetensors and the tokenizer's files"
    is_modular = (folder / "modules.json").is_file()
    if not is_modular and not (folder / "config.json").is_file():
        raise InputError("this folder is not a model: it has no config.json", where=str(folder), todo=todo)
    weights_folder = "**/" if is_modular else ""
    if not any(folder.glob(f"{weights_folder}*.safetensors")):
        pickled = any(folder.glob(f"{weights_folder}pytorch_model*.bin"))
        what = "its weights are pickled, and pickles can run code" if pickled else "it has no weights (*.safetensors)"
        raise InputError(f"this model folder cannot be used: {what}", where=str(folder), todo=todo)
    found = {path for pattern in MODEL_FILES for path in folder.rglob(pattern)}
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def hub_commit(name: str, revision: str | None = None) -> str:
    """The commit behind a hub id: the revision itself, what the local hub cache holds for it, or else what the hub
    says.

    The cache goes first, so that a model does not change under a run; `hf download` renews it.
    """
    return known_commit(name, revision) or _ask_hub(name, revision)


def known_commit(name: str, revision: str | None = None) -> str | None:
    """The commit behind a hub id as far as it is known here: the revision itself, or what the local hub cache says."""
    if revision and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import constants

    ref = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / (revision or "main")
    return ref.read_text().strip() if ref.is_file() else None


def _ask_hub(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    todo = "give a folder, a hub id that exists (and HF_TOKEN if it is gated), or provider: packaged"
    try:
        return str(HfApi().model_info(name, revision=revision, timeout=10).sha)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(f"there is no model {name!r}, neither as a folder nor on the hub", todo=todo) from error
    except (OfflineModeIsEnabled, HfHubHTTPError, OSError, RuntimeError) as error:
        raise ServiceError(
            f"the model {name!r} is no local folder, not in the local hub cache, and the hub cannot be reached",
            todo=todo,
        ) from error


def _digest_files(files: list[Path]) -> str:
    """One digest over names and contents; contents are read only when size or modification time changed."""
    root = Path(os.path.commonpath([path.parent for path in files]))
    return digest([[path.relative_to(root).as_posix(), _remembered_digest(path)] for path in files])


def _remembered_digest(path: Path) -> str:
    stat = path.stat()
    stamp = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
    note = cache_folder() / "digests" / digest_text(str(path.resolve())).removeprefix("sha256:")
    try:
        remembered = json.loads(note.read_text())
        if remembered["stamp"] == stamp:
            return str(remembered["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never seen, or an unreadable note: the content decides
    content = digest_file(path)
    _remember(note, {"stamp": stamp, "digest": content})
    return content


def _remember(note: Path, content: dict[str, object]) -> None:
    """Keep a digest for the next time; a cache that cannot be written costs time only."""
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, delete=False) as file:
            json.dump(content, file)
        Path(file.name).rename(note)
    except OSError:
        pass
