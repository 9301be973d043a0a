"""The models behind a run by name, and the servers that have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from radit_job.report.training import is_by_api

PROVIDER = "openai"  # OpenAI, or any server that speaks its protocol
SHOWN = ("lm", "embedder", "judge")


def address(settings: Mapping[str, Any], role: str) -> str:
    """Where a served model of the settings is asked; empty for one that runs here, or that there is not."""
    model = settings.get(role) or {}
    return str(model.get("base_url") or "") if model.get("provider") == PROVIDER else ""


def facts(settings: Mapping[str, Any], training: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """(label, name, where it is) of the models; a tuned LM and a judge where a service has them."""
    found = [_fact(settings, "lm", "language model")]
    if training and is_by_api(training) and training.get("model"):
        found.append(("tuned language model", str(training["model"]), _at(address(settings, "lm"))))
    found.append(_fact(settings, "embedder", "retriever"))
    if address(settings, "judge"):
        found.append(_fact(settings, "judge", "judge"))
    return found


def _fact(settings: Mapping[str, Any], role: str, label: str) -> tuple[str, str, str]:
    return label, str(settings[role]["name"]), _at(address(settings, role))


def _at(where: str) -> str:
    return f"at {where}" if where else ""
