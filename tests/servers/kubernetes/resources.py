"""The kinds of objects that are served, and what a request's path means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> str:
        """The name under which it is stored: jobs.batch, pods."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


PODS = Resource("", "v1", "pods", "Pod")
EVENTS = Resource("", "v1", "events", "Event")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
JOBS = Resource("batch", "v1", "jobs", "Job")
REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)

RESOURCES = {
    (one.group, one.plural): one
    for one in (
        PODS, EVENTS, NODES, NAMESPACES, CONFIG_MAPS, SECRETS, QUOTAS, JOBS, REVIEWS,
        Resource("", "v1", "services", "Service"),
        Resource("", "v1", "serviceaccounts", "ServiceAccount"),
        Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
        Resource("batch", "v1", "cronjobs", "CronJob"),
        Resource("coordination.k8s.io", "v1", "leases", "Lease"),
        Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
        Resource("rbac.authorization.k8s.io", "v1", "roles", "Role"),
        Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    )
}  # fmt: skip
BY_KEY = {one.key: one for one in RESOURCES.values()}
SUBRESOURCES = {("pods", "log"), ("pods", "eviction"), ("pods", "status"), ("jobs", "status"), ("namespaces", "status")}

_PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<subresource>[^/]+))?)?$"
)
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for, in the terms in which a Role speaks of it."""

    verb: str
    resource: Resource
    namespace: str
    name: str
    subresource: str
    query: dict[str, str]

    @property
    def full_resource(self) -> str:
        """As a Role's `resources` names it: pods/log."""
        return f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural


def parse_query(target: str) -> dict[str, str]:
    """The last value of each parameter of a request's target."""
    return {name: values[-1] for name, values in parse_qs(urlsplit(target).query, keep_blank_values=True).items()}


def parse(method: str, target: str) -> Request | None:
    """A request for objects; None for any other path."""
    path = urlsplit(target).path
    found = _PATH.match(path)
    if found is None or method not in _VERBS:
        return None
    part = {name: unquote(value or "") for name, value in found.groupdict().items()}
    if part["namespace"] and part["plural"] == "status" and not part["name"]:
        part.update(plural="namespaces", name=part["namespace"], subresource="status", namespace="")
    resource = RESOURCES.get((part["group"], part["plural"]))
    if resource is None or part["version"] not in ("", resource.version):
        return None
    if part["subresource"] and (resource.plural, part["subresource"]) not in SUBRESOURCES:
        return None
    query = parse_query(target)
    verb = _VERBS[method]
    if verb == "get" and not part["name"]:
        verb = "watch" if query.get("watch", "").lower() in ("1", "true") else "list"
    if verb == "delete" and not part["name"]:
        verb = "deletecollection"
    if not part["name"] and verb in ("update", "patch"):
        return None
    namespace = part["name"] if resource is NAMESPACES else part["namespace"]
    return Request(verb, resource, namespace, part["name"], part["subresource"], query)
