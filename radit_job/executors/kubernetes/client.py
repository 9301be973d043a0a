"""The Kubernetes API as plain dicts. The only importer of `kubernetes`, for its kubeconfig, credentials and TLS."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from radit_job.errors import ConfigError, ServiceError
from radit_job.executors.kubernetes.answers import AlreadyExists, ApiError, Gone
from radit_job.executors.kubernetes.transport import PATIENCE_S, Request, Session, Stopper, Transport

Object = dict[str, Any]

PAGE = 500  # objects
WATCH_S = 290.0  # the server ends a watch after about this time; less than most proxies' idle limits
POD_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
GROUPS = {
    "jobs": "apis/batch/v1",
    "pods": "api/v1",
    "events": "api/v1",
    "services": "api/v1",
    "nodes": "api/v1",
    "secrets": "api/v1",
    "configmaps": "api/v1",
    "selfsubjectaccessreviews": "apis/authorization.k8s.io/v1",
}
OF_THE_CLUSTER = {"nodes", "selfsubjectaccessreviews"}  # resources without a namespace


class KubernetesClient:
    """Requests in one namespace. Trouble that may pass is waited for; ApiError and its kinds are final."""

    def __init__(self, transport: Transport, namespace: str, context: str | None = None) -> None:
        self._transport = transport
        self._namespace = namespace
        self._context = context

    @property
    def context(self) -> str | None:
        """The kubeconfig's context in use; None inside a cluster."""
        return self._context

    @property
    def namespace(self) -> str:
        """Where everything happens."""
        return self._namespace

    @property
    def host(self) -> str:
        """The API server's address."""
        return self._transport.host

    def create(self, resource: str, body: Object, *, patience_s: float | None = None) -> Object:
        """Create an object; AlreadyExists where one has its name, which may be this call's own first try."""
        name = body.get("metadata", {}).get("name", "")
        return self._transport.json(
            self._request("POST", "create", resource, title=name, body=body, patience_s=patience_s)
        )

    def try_to_create(self, resource: str, body: Object) -> None:
        """Ask the server whether it would create an object: namespace, schema and admission are checked, no more."""
        name = body.get("metadata", {}).get("name", "")
        dry_run = {"dryRun": "All"}
        with suppress(AlreadyExists):
            self._transport.json(
                self._request("POST", "create", resource, title=f"{name} (dry run)", body=body, query=dry_run)
            )

    def get(self, resource: str, name: str) -> Object | None:
        """An object, or None where there is none."""
        try:
            return self._transport.json(self._request("GET", "get", resource, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self,
        resource: str,
        selector: str = "",
        *,
        field_selector: str = "",
        keep: Callable[[Object], Object] = lambda item: item,
        stopper: Stopper | None = None,
    ) -> tuple[list[Object], str]:
        """All objects that match, each as `keep` leaves it, and the resourceVersion to watch from."""
        filters = {"labelSelector": selector, "fieldSelector": field_selector}
        items: list[Object] = []
        page: dict[str, str] = {"limit": str(PAGE)}
        while True:
            try:
                plain = self._transport.json(self._request("GET", "list", resource, query=filters | page), stopper)
            except Gone:
                items, page = [], {}  # the pages grew too old while they were read: all at once, then
                continue
            items += [keep(item) for item in plain.get("items") or ()]
            metadata = plain.get("metadata") or {}
            if not metadata.get("continue"):
                return items, str(metadata.get("resourceVersion", ""))
            page = {"limit": str(PAGE), "continue": metadata["continue"]}

    def delete(self, resource: str, name: str, *, uid: str | None = None, propagation: str = "Foreground") -> bool:
        """Ask for an object's deletion; False where it is gone already. Conflict where its uid is another one."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self._transport.json(self._request("DELETE", "delete", resource, name, body=body))
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def watch(
        self,
        resource: str,
        selector: str,
        resource_version: str,
        *,
        field_selector: str = "",
        stopper: Stopper | None = None,
    ) -> Iterator[tuple[str, Object]]:
        """Events (ADDED, MODIFIED, DELETED, BOOKMARK) since a resourceVersion, for one connection's life.

        It ends without a word when the server or the network ends it: watch again from the last version.
        Gone: list again.
        """
        timeout_s = WATCH_S * random.uniform(0.9, 1.1)  # so that many watches do not come back at once
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "labelSelector": selector,
            "fieldSelector": field_selector,
            "resourceVersion": resource_version,
            "timeoutSeconds": str(round(timeout_s)),
        }
        request = self._request("GET", "watch", resource, query=query, read_timeout_s=timeout_s + 30.0)
        for line in self._transport.lines(request, stopper):
            try:
                event = json.loads(line)
            except ValueError:
                return  # cut off in the middle
            item = event.get("object") or {}
            if event.get("type") == "ERROR":
                if item.get("code") == 410:
                    raise Gone(str(item.get("message")), status=410)
                return
            item.get("metadata", {}).pop("managedFields", None)
            yield event["type"], item

    def pod_log(
        self,
        name: str,
        *,
        follow: bool = False,
        tail_lines: int | None = None,
        since_time: str = "",
        timestamps: bool = False,
        patience_s: float | None = None,
        stopper: Stopper | None = None,
    ) -> Iterator[bytes]:
        """The lines that a pod printed; ApiError 400 while its container waits, 404 when it is gone."""
        query = {
            "follow": "true" if follow else "",
            "tailLines": "" if tail_lines is None else str(tail_lines),
            "sinceTime": since_time,
            "timestamps": "true" if timestamps else "",
        }
        request = self._request(
            "GET",
            "get",
            "pods",
            f"{name}/log",
            title=f"/log of {name}",
            query=query,
            patience_s=patience_s,
            read_timeout_s=None if follow else 30.0,
        )
        return self._transport.lines(request, stopper)

    def is_allowed(self, verb: str, resource: str, subresource: str = "") -> bool:
        """Whether RBAC grants a verb here, as the API server itself says."""
        attributes = {
            "namespace": "" if resource in OF_THE_CLUSTER else self._namespace,
            "verb": verb,
            "group": GROUPS[resource].removeprefix("apis/").split("/")[0] if "apis/" in GROUPS[resource] else "",
            "resource": resource,
            "subresource": subresource,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        return bool(self.create("selfsubjectaccessreviews", review).get("status", {}).get("allowed"))

    def _request(
        self,
        method: str,
        verb: str,
        resource: str,
        name: str = "",
        *,
        title: str = "",
        query: dict[str, str] | None = None,
        **more: Any,
    ) -> Request:
        scope = "" if resource in OF_THE_CLUSTER else f"/namespaces/{self._namespace}"
        path = f"/{GROUPS[resource]}{scope}/{resource}" + (f"/{name}" if name else "")
        what = resource + title if title.startswith("/") else f"{resource} {title or name}".strip()
        asked = tuple((key, value) for key, value in (query or {}).items() if value)
        return Request(method, path, verb, what, asked, **more)


def connect(
    context: str | None = None, namespace: str | None = None, *, patience_s: float = PATIENCE_S
) -> KubernetesClient:
    """A client as kubectl would choose it: the kubeconfig where there is one, else the pod's service account.

    `namespace` None is the context's, or the pod's own. ConfigError where there is neither, or no such context.
    """
    paths = os.environ.get("KUBECONFIG") or "~/.kube/config"
    if any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        chosen = _chosen_context(paths, context)
        context, namespace = chosen["name"], namespace or chosen["context"].get("namespace") or "default"
    elif context:
        raise ConfigError(f"there is no kubeconfig, so no context {context!r}", where=paths, todo="Set KUBECONFIG.")
    else:
        namespace = namespace or _pod_namespace()
    return KubernetesClient(Transport(lambda: _session(paths, context), namespace, patience_s), namespace, context)


def _chosen_context(paths: str, context: str | None) -> Object:
    from kubernetes.config import kube_config

    with _trouble_told(paths):
        contexts, active = kube_config.list_kube_config_contexts(config_file=paths)
    chosen: Object | None = next((entry for entry in contexts if entry["name"] == context), None)
    if context is None:
        chosen = active
    if chosen is None:
        known = ", ".join(entry["name"] for entry in contexts) or "none"
        raise ConfigError(f"the kubeconfig has no context {context!r}", where=paths, todo=f"It has: {known}.")
    return chosen


@contextmanager
def _trouble_told(paths: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the loaders raise their own, and whatever YAML, files and exec plugins raise
        todo = "Set KUBECONFIG to a file with which `kubectl get jobs` works, or run inside a cluster."
        raise ConfigError(f"no way to a cluster: {error}", where=paths, todo=todo) from error


def _session(paths: str, context: str | None) -> Session:
    """Read the credentials, anew at each call. Without a context they are the pod's."""
    from kubernetes.client import Configuration
    from kubernetes.client.rest import RESTClientObject
    from kubernetes.config import load_incluster_config, load_kube_config

    configuration: Any = Configuration()
    with _trouble_told(paths):
        if context is None:
            load_incluster_config(client_configuration=configuration)
        else:
            load_kube_config(config_file=paths, context=context, client_configuration=configuration)
    configuration.connection_pool_maxsize = 16  # watches and logs hold one each
    pool = RESTClientObject(configuration).pool_manager
    pool.connection_pool_kw["socket_options"] = _keep_alive()

    def auth_headers() -> dict[str, str]:
        try:
            return {item["key"]: item["value"] for item in configuration.auth_settings().values() if item["value"]}
        except Exception as error:  # an exec plugin or a cloud's library, whatever it raises
            raise ServiceError(f"the cluster's credentials cannot be renewed: {error}", todo="Log in anew.") from error

    return Session(configuration.host, pool, auth_headers)


def _keep_alive() -> list[tuple[int, int, int]]:
    """A peer that vanished without a word is noticed in a minute, even where a watch has nothing to say."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


def _pod_namespace() -> str:
    try:
        return POD_NAMESPACE_FILE.read_text().strip()
    except OSError:
        return "default"
