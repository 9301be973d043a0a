"""Keys, and the decision to run or to reuse, each with its reason. Pure: the store's answers come in as arguments.

A stage's key is the sha256 over everything that can change its output: the stage and its version, its slice of the
configuration, the content digests of its inputs, and the identities of its models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from radit_job.config.canonical import changed_fields
from radit_job.config.fields import result_values
from radit_job.config.models import Model
from radit_job.config.schema import Config
from radit_job.hashing import digest, short
from radit_job.jobs import ArtifactRef
from radit_job.pipeline.catalog import StageRow
from radit_job.pipeline.graph import artifact_name

Ingredients = dict[str, Any]  # what a key is made of; kept in run.json, so that the next plan can say what changed
IdentityOf = Callable[[Model], str]
SHOWN_VALUE_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Decision:
    """What will happen to one stage, and why."""

    stage: str
    action: Literal["run", "cached", "waits", "skipped"]  # waits: it depends on what a stage before it will write
    why: str
    key: str | None = None
    replace: bool = False  # something is committed under the key already, and shall be replaced


def ingredients_of(
    row: StageRow, config: Config, inputs: Mapping[str, ArtifactRef], identity_of: IdentityOf
) -> Ingredients:
    """What the stage's key is made of, as plain values."""
    sees = row.sees.of(config)
    models = {name: getattr(sees, name) for name in row.models}
    return {
        "stage": row.name,
        "version": row.version,
        "config": result_values(sees),
        "inputs": {name: inputs[name].digest for name in map(artifact_name, row.reads) if name in inputs},
        "models": {name: identity_of(model) for name, model in models.items() if model is not None},
    }


def key_of(ingredients: Ingredients) -> str:
    """64 hex digits."""
    return digest(ingredients).removeprefix("sha256:")


def why_run(previous: Ingredients | None, now: Ingredients, *, ended: bool = True) -> str:
    """What changed since this run last had the stage; `ended` says whether it came to its end then."""
    if previous is None:
        return "first run"
    changes = []
    if previous["version"] != now["version"]:
        changes.append(f"the stage's version went from {previous['version']} to {now['version']}")
    for field, old, new in changed_fields(previous["config"], now["config"]):
        changes.append(f"{field} changed from {_shown(old)} to {_shown(new)}")
    for name in sorted(previous["inputs"].keys() | now["inputs"].keys()):
        old, new = previous["inputs"].get(name), now["inputs"].get(name)
        if old != new:
            changes.append(f"input {name} changed{f' ({short(old)} to {short(new)})' if old and new else ''}")
    for name in sorted(previous["models"].keys() | now["models"].keys()):
        if previous["models"].get(name) != now["models"].get(name):
            changes.append(f"the model {name} changed")
    return "; ".join(changes) or ("its artifact is no longer in the store" if ended else "it did not end last time")


def why_waits(row: StageRow, before: Sequence[str], previous: Ingredients | None, sees_now: dict[str, Any]) -> str:
    """Why a stage behind one that will run cannot be decided yet."""
    behind = f"behind {' and '.join(before)}"
    if previous is None:
        return f"first run, {behind}"
    changes = [
        f"{field} changed from {_shown(old)} to {_shown(new)}"
        for field, old, new in changed_fields(previous["config"], sees_now)
    ]
    return f"{'; '.join(changes)}; {behind}" if changes else f"{behind}: runs unless what it reads comes out as it was"


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_VALUE_CHARACTERS else text[: SHOWN_VALUE_CHARACTERS - 3] + "..."
