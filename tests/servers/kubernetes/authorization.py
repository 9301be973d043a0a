"""Who may do what: bearer tokens, and the rules of a Role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.servers.kubernetes.resources import RESOURCES, REVIEWS, Request

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Grant:
    """Rules of a Role in one namespace, or of a ClusterRole where the namespace is None."""

    rules: tuple[Json, ...]
    namespace: str | None


class Authorizer:
    """Allows everything until `only` names what is allowed."""

    def __init__(self) -> None:
        self._grants: tuple[Grant, ...] | None = None

    def only(self, *grants: Grant) -> None:
        """Refuse what no grant allows."""
        self._grants = grants

    def everything(self) -> None:
        """Refuse nothing."""
        self._grants = None

    def allows(self, request: Request) -> bool:
        """Whether a request may pass; asking what one may do is always allowed."""
        if self._grants is None or request.resource is REVIEWS:
            return True
        return any(
            grant.namespace in (None, request.namespace) and any(_covers(rule, request) for rule in grant.rules)
            for grant in self._grants
        )

    def review(self, body: Json) -> Json:
        """The answer to a SelfSubjectAccessReview."""
        asked = (body.get("spec") or {}).get("resourceAttributes") or {}
        resource = RESOURCES.get((asked.get("group", ""), asked.get("resource", "")))
        allowed = self._grants is None
        if resource is not None:
            namespace = asked.get("namespace", "")
            subresource, name = asked.get("subresource", ""), asked.get("name", "")
            allowed = self.allows(Request(asked.get("verb", ""), resource, namespace, name, subresource, {}))
        return {
            "kind": REVIEWS.kind,
            "apiVersion": REVIEWS.api_version,
            "metadata": {},
            "spec": body.get("spec") or {},
            "status": {"allowed": allowed},
        }


def _covers(rule: Json, request: Request) -> bool:
    names = rule.get("resourceNames") or ()
    return (
        _has(rule.get("verbs"), request.verb)
        and _has(rule.get("apiGroups"), request.resource.group)
        and _has(rule.get("resources"), request.full_resource)
        and (not names or request.name in names)
    )


def _has(allowed: Any, wanted: str) -> bool:
    return wanted in (allowed or ()) or "*" in (allowed or ())
