"""A container's command and environment, as the process on this machine gets them."""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path
from typing import Any

from tests.servers.kubernetes.resources import CONFIG_MAPS, SECRETS
from tests.servers.kubernetes.storage import Storage

Json = dict[str, Any]
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")


class ConfigurationError(Exception):
    """What the container's environment refers to is not there: CreateContainerConfigError."""


def environment_of(storage: Storage, pod: Json, container: Json, host_env: dict[str, str]) -> dict[str, str]:
    """Host's variables, then envFrom, then env, the later ones winning; references resolved."""
    env: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        prefix = source.get("prefix") or ""
        for key, value in _values_of(storage, pod, source).items():
            env[prefix + key] = value
    for one in container.get("env") or ():
        value = _value(storage, pod, container, one)
        if value is not None:
            env[one["name"]] = expand(value, env)
    return {**host_env, "HOSTNAME": pod["spec"].get("hostname") or pod["metadata"]["name"], **env}


def command_of(container: Json, env: dict[str, str], entrypoint: list[str]) -> list[str]:
    """The program and its arguments: the container's, or the image's entry point; `radit` is this Python's."""
    argv = [*(container.get("command") or entrypoint), *(container.get("args") or ())]
    argv = [expand(word, env) for word in argv]
    return [sys.executable, "-m", "radit_job", *argv[1:]] if Path(argv[0]).name == "radit" else argv


def expand(text: str, env: dict[str, str]) -> str:
    """$(NAME) becomes the variable's value where there is one, and $$ a dollar sign."""

    def replaced(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return env.get(found[1], found[0])

    return _REFERENCE.sub(replaced, text)


def _values_of(storage: Storage, pod: Json, source: Json) -> dict[str, str]:
    namespace = pod["metadata"]["namespace"]
    for field, resource, kind in (("secretRef", SECRETS, "secret"), ("configMapRef", CONFIG_MAPS, "configmap")):
        if reference := source.get(field):
            found = storage.find(resource, namespace, reference["name"])
            if found is not None:
                return plain_data(found)
            if not reference.get("optional"):
                raise ConfigurationError(f'{kind} "{reference["name"]}" not found')
    return {}


def plain_data(obj: Json) -> dict[str, str]:
    """The data of a Secret or a ConfigMap."""
    if obj["kind"] == "ConfigMap":
        return dict(obj.get("data") or {})
    decoded = {key: base64.b64decode(value).decode() for key, value in (obj.get("data") or {}).items()}
    return {**decoded, **(obj.get("stringData") or {})}


def _value(storage: Storage, pod: Json, container: Json, one: Json) -> str | None:
    source = one.get("valueFrom")
    if not source:
        return str(one.get("value") or "")
    if field := source.get("fieldRef"):
        return _field(pod, field["fieldPath"])
    if field := source.get("resourceFieldRef"):
        kind, _, name = field["resource"].partition(".")
        return str(((container.get("resources") or {}).get(kind) or {}).get(name, 0))
    for key_ref, from_ref in (("secretKeyRef", "secretRef"), ("configMapKeyRef", "configMapRef")):
        if reference := source.get(key_ref):
            values = _values_of(storage, pod, {from_ref: reference})
            if reference["key"] not in values and not reference.get("optional"):
                where = f"{pod['metadata']['namespace']}/{reference['name']}"
                kind = "Secret" if key_ref == "secretKeyRef" else "ConfigMap"
                raise ConfigurationError(f"couldn't find key {reference['key']} in {kind} {where}")
            return values.get(reference["key"])
    return None


def _field(pod: Json, path: str) -> str:
    if found := _SUBSCRIPT.match(path):
        return str((pod["metadata"].get(found[1]) or {}).get(found[2], ""))
    if path in ("status.podIP", "status.hostIP"):
        return "127.0.0.1"
    here: Any = pod
    for step in path.split("."):
        here = here.get(step, "") if isinstance(here, dict) else ""
    return str(here)
