"""A namespace for each test, on the small API server of the tests and, with `-m cluster`, on a real cluster.

The real one is the current kubeconfig's. Its nodes have the image RADIT_TEST_IMAGE (radit-job:latest), and its pods
reach this machine at RADIT_TEST_HOST, where the tests start an S3 server of their own. docs/cluster.md says more.
"""

from __future__ import annotations

import base64
import os
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client as official
from kubernetes import config as official_config

from tests.cluster.bench import Bench, Cluster
from tests.servers.kubernetes import KubernetesServer
from tests.servers.seaweedfs import SeaweedFS

ON_BOTH = ["small server", pytest.param("real cluster", marks=pytest.mark.cluster)]
HOST = os.environ.get("RADIT_TEST_HOST", "127.0.0.1")  # this machine, as pods see it
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS.started(tmp_path_factory.mktemp("s3"), HOST) as server:
        yield server


@pytest.fixture(params=ON_BOTH)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        if request.param == "small server":
            yield stack.enter_context(_small(tmp_path / "cluster"))
        else:
            yield real_cluster()


@pytest.fixture
def bench(cluster: Cluster, s3: SeaweedFS, tmp_path: Path) -> Iterator[Bench]:
    with namespace_on(cluster, s3, tmp_path / "work") as made:
        yield made


@contextmanager
def namespace_on(cluster: Cluster, s3: SeaweedFS, folder: Path) -> Iterator[Bench]:
    """A namespace with restricted pod security and the store's Secret; it goes when the context ends."""
    namespace = f"radit-test-{uuid.uuid4().hex[:8]}"
    core = cluster.core
    metadata = {"name": namespace, "labels": RESTRICTED}
    core.create_namespace({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    values = {name: base64.b64encode(text.encode()).decode() for name, text in s3.environment.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "radit-s3"}, "data": values}
    core.create_namespaced_secret(namespace, secret)
    made = Bench(folder, cluster, namespace, s3)
    try:
        yield made
    finally:
        made.stop_all()
        core.delete_namespace(namespace)


@contextmanager
def _small(folder: Path) -> Iterator[Cluster]:
    folder.mkdir()
    with KubernetesServer(folder) as server:
        yield Cluster(
            kubeconfig=server.kubeconfig,
            image="radit-job:latest",
            api=official_config.new_client_from_config(config_file=str(server.admin_kubeconfig)),
            small=server,
            stop_api=server.stop,
            start_api=server.start,
        )


def real_cluster() -> Cluster:
    """The current kubeconfig's."""
    kubeconfig = Path(os.environ.get("KUBECONFIG", Path.home() / ".kube" / "config"))
    api: Any = official_config.new_client_from_config(config_file=str(kubeconfig))
    official.VersionApi(api).get_code()
    return Cluster(
        kubeconfig=kubeconfig,
        image=os.environ.get("RADIT_TEST_IMAGE", "radit-job:latest"),
        api=api,
        small=None,
        stop_api=_command("RADIT_TEST_STOP_API"),
        start_api=_command("RADIT_TEST_START_API"),
    )


def _command(variable: str) -> Any:
    """What stops or starts the API server of the cluster at hand; only whoever runs it can know."""
    line = os.environ.get(variable)
    if line is None:
        return None
    return lambda: subprocess.run(shlex.split(line), check=True)
