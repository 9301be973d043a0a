"""The client over HTTP: requests as the API server wants them, trouble that passes, and answers that are final."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from radit_job.errors import ConfigError
from radit_job.executors.kubernetes.answers import AlreadyExists, ApiError, Conflict, Forbidden, NoAnswer, QuotaFull
from radit_job.executors.kubernetes.client import KubernetesClient, connect
from radit_job.executors.kubernetes.permissions import PERMISSIONS, missing
from tests.executors.conftest import eventually, plain_job, warnings
from tests.servers.kubernetes.server import KubernetesServer


def config_map(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}


def test_an_object_is_created_found_listed_and_deleted(client: KubernetesClient) -> None:
    made = client.create("jobs", plain_job("one", {"color": "red"}))
    client.create("jobs", plain_job("two", {"color": "blue"}))
    found = client.get("jobs", "one")
    assert found is not None
    assert found["metadata"]["uid"] == made["metadata"]["uid"]
    assert [job["metadata"]["name"] for job in client.list("jobs", "color=red")[0]] == ["one"]
    assert client.delete("jobs", "one", uid=made["metadata"]["uid"], propagation="Background")
    eventually(lambda: client.get("jobs", "one") is None)
    assert client.delete("jobs", "one") is False


def test_a_name_that_is_taken_and_a_uid_that_is_another_are_told_apart(client: KubernetesClient) -> None:
    client.create("configmaps", config_map("one"))
    with pytest.raises(AlreadyExists):
        client.create("configmaps", config_map("one"))
    with pytest.raises(Conflict):
        client.delete("configmaps", "one", uid="00000000-0000-0000-0000-000000000000")


def test_what_the_server_finds_invalid_is_a_configuration_error_in_its_words(client: KubernetesClient) -> None:
    job = plain_job("bad")
    job["spec"]["backoffLimit"] = -3
    with pytest.raises(ConfigError, match=r"backoffLimit.*greater than or equal to 0"):
        client.create("jobs", job)


def test_a_verb_that_is_not_granted_is_named_with_what_grants_it(
    server: KubernetesServer, client: KubernetesClient
) -> None:
    server.allow_only([])
    with pytest.raises(Forbidden, match="cannot create jobs one in namespace default") as raised:
        client.create("jobs", plain_job("one"))
    assert raised.value.todo is not None
    assert "k8s/base" in raised.value.todo
    with pytest.raises(Forbidden, match="pods/log of p"):
        list(client.pod_log("p"))


def test_a_full_quota_is_not_a_missing_permission(server: KubernetesServer, client: KubernetesClient) -> None:
    server.set_quota(**{"count/jobs.batch": 0})
    with pytest.raises(QuotaFull, match="exceeded quota"):
        client.create("jobs", plain_job("one"))


def test_a_namespace_that_is_not_there_is_named(server: KubernetesServer, client: KubernetesClient) -> None:
    with pytest.raises(ConfigError, match="nowhere") as raised:
        connect(namespace="nowhere").create("jobs", plain_job("one"))
    assert raised.value.todo is not None
    assert "k8s/base" in raised.value.todo


def test_a_busy_server_is_given_the_time_that_it_asks_for(
    server: KubernetesServer, client: KubernetesClient, told: list[dict[str, Any]]
) -> None:
    server.fail_next(1, 429, retry_after=1)
    began_s = time.monotonic()
    client.list("jobs")
    assert time.monotonic() - began_s >= 1.0
    first, last = warnings(told)
    assert "answers 429" in first
    assert "answers again" in last


@pytest.mark.parametrize("status", [500, 503])
def test_what_the_server_blames_on_itself_is_tried_again_and_told_once(
    server: KubernetesServer, client: KubernetesClient, told: list[dict[str, Any]], status: int
) -> None:
    server.fail_next(2, status)
    client.list("jobs")
    assert server.count("list", "jobs") == 3
    assert len(warnings(told)) == 2


def test_an_answer_that_was_lost_shows_as_a_name_that_is_taken(
    server: KubernetesServer, client: KubernetesClient
) -> None:
    server.reset_connections(1, verb="create", takes_effect=True)
    with pytest.raises(AlreadyExists):
        client.create("jobs", plain_job("one"))
    assert len(server.objects("jobs")) == 1


def test_a_server_that_is_restarted_is_waited_for(
    server: KubernetesServer, client: KubernetesClient, told: list[dict[str, Any]]
) -> None:
    client.create("configmaps", config_map("one"))
    server.stop()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(client.get("configmaps", "one")))
    thread.start()
    eventually(lambda: warnings(told))
    server.start()
    thread.join(20)
    assert answers[0]["metadata"]["name"] == "one"
    assert "Connection refused" in warnings(told)[0]
    assert len(warnings(told)) == 2


def test_patience_ends(server: KubernetesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    client = connect(patience_s=0.5)
    server.stop()
    began_s = time.monotonic()
    with pytest.raises(NoAnswer, match=r"cannot be reached: .*Connection refused"):
        client.get("jobs", "one")
    assert time.monotonic() - began_s < 2.0


def test_a_long_list_comes_in_pages_even_if_history_is_forgotten_in_between(
    server: KubernetesServer, client: KubernetesClient
) -> None:
    for number in range(1_100):
        server.create("configmaps", config_map(f"map-{number:04}"))
    assert len(client.list("configmaps")[0]) == 1_100
    assert server.count("list", "configmaps") == 3
    seen = []

    def compact_once(item: dict[str, Any]) -> dict[str, Any]:
        if not seen:
            server.create("configmaps", config_map("another"))
            server.compact()
        seen.append(item)
        return item

    assert len(client.list("configmaps", keep=compact_once)[0]) == 1_101


def test_managed_fields_are_never_kept(client: KubernetesClient) -> None:
    body = config_map("one")
    body["metadata"]["managedFields"] = [{"manager": "kubectl", "operation": "Update"}]
    client.create("configmaps", body)
    [item] = client.list("configmaps")[0]
    assert "managedFields" not in item["metadata"]


def test_a_token_that_is_renewed_in_the_kubeconfig_is_taken_up(
    server: KubernetesServer, client: KubernetesClient
) -> None:
    client.list("jobs")
    server.users["a-new-token"] = server.users.pop(server.token)
    with pytest.raises(ApiError, match="does not accept the credentials"):
        client.list("jobs")
    plain = yaml.safe_load(server.kubeconfig.read_text())
    plain["users"][0]["user"]["token"] = "a-new-token"
    server.kubeconfig.write_text(yaml.safe_dump(plain))
    client.list("jobs")


def test_a_token_from_a_program_is_asked_for_again_when_it_has_expired(
    server: KubernetesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "credential.json"
    plain = yaml.safe_load(server.kubeconfig.read_text())
    plain["users"][0]["user"] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "cat",
            "args": [str(token)],
            "interactiveMode": "Never",
        }
    }
    path = tmp_path / "exec-kubeconfig"
    path.write_text(yaml.safe_dump(plain))
    monkeypatch.setenv("KUBECONFIG", str(path))

    def credential(value: str) -> str:
        head = '{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": '
        return head + f'{{"token": "{value}", "expirationTimestamp": "2020-01-01T00:00:00Z"}}}}'

    token.write_text(credential(server.token))
    client = connect()
    client.list("jobs")
    server.users["a-new-token"] = server.users.pop(server.token)
    token.write_text(credential("a-new-token"))
    client.list("jobs")


def test_no_way_to_a_cluster_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="no way to a cluster") as raised:
        connect()
    assert raised.value.todo is not None
    assert "KUBECONFIG" in raised.value.todo


def test_a_context_that_is_not_there_is_answered_with_those_that_are(client: KubernetesClient) -> None:
    assert (client.context, client.namespace) == ("test", "default")
    with pytest.raises(ConfigError, match="no context 'other'") as raised:
        connect("other")
    assert raised.value.todo == "It has: test."


def test_missing_permissions_are_listed_one_by_one(server: KubernetesServer, client: KubernetesClient) -> None:
    assert missing(client) == []
    server.allow_only([{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch"]}])
    assert missing(client)[:3] == ["create jobs", "delete jobs", "list pods"]
    assert "get pods/log" in missing(client)
    server.allow_only([])
    assert len(missing(client)) == len(PERMISSIONS)
    assert missing(client, has_node_groups=True)[len(PERMISSIONS) :] == ["create services", "get services"]


def test_an_answer_that_breaks_off_in_the_middle_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare socket: no HTTP server breaks off in mid-answer."""
    body = b'{"metadata": {"name": "one"}}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for part in (body[:10], body):
            connection, _ = listener.accept()
            connection.recv(65_536)
            connection.sendall(head + part)
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    cluster = {"server": f"http://127.0.0.1:{listener.getsockname()[1]}"}
    plain = {
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(plain))
    monkeypatch.setenv("KUBECONFIG", str(path))
    found = connect(patience_s=20.0).get("jobs", "one")
    thread.join(20)
    listener.close()
    assert found == {"metadata": {"name": "one"}}
