"""The verbs that a run needs in its namespace, and which of them are not granted."""

from __future__ import annotations

from typing import NamedTuple

from radit_job.executors.kubernetes.client import KubernetesClient


class Permission(NamedTuple):
    """One verb on one resource, as RBAC grants them."""

    verb: str
    resource: str
    subresource: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{'/' + self.subresource if self.subresource else ''}"


PERMISSIONS = (  # k8s/base/role.yaml grants these and those below, and no others: tests hold them together
    Permission("create", "jobs"),
    Permission("get", "jobs"),
    Permission("list", "jobs"),
    Permission("watch", "jobs"),
    Permission("delete", "jobs"),
    Permission("list", "pods"),
    Permission("watch", "pods"),
    Permission("get", "pods", "log"),
    Permission("list", "events"),
    Permission("watch", "events"),
    Permission("create", "events"),
)
NODE_GROUP_PERMISSIONS = (  # beside them, where a stage has several nodes
    Permission("create", "services"),
    Permission("get", "services"),
)


def missing(client: KubernetesClient, *, has_node_groups: bool = False) -> list[str]:
    """What is not granted, such as `create jobs`; empty when a run can go through."""
    wanted = PERMISSIONS + (NODE_GROUP_PERMISSIONS if has_node_groups else ())
    return [str(needed) for needed in wanted if not client.is_allowed(*needed)]
