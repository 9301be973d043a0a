"""Whether pods will have the keys of served models, as `radit check --executor kubernetes` sees it."""

from __future__ import annotations

import base64
from typing import Any

from radit_job.config.schema import Config
from radit_job.errors import ConfigError
from radit_job.executors.kubernetes.client import KubernetesClient
from radit_job.pipeline.check_cluster import _keys, _references
from radit_job.pipeline.findings import Finding
from radit_job.pipeline.served import served_uses
from tests.servers.kubernetes.server import KubernetesServer

LM = {"provider": "openai", "name": "gpt-4o-mini"}
VALUE = "sk-never-shown"


def findings(client: KubernetesClient, *, lm: dict[str, Any] | None = None, **kubernetes: Any) -> list[Finding]:
    plain = {"name": "x", "corpus": {"paths": ["d"]}, "evaluate": {"arms": ["base"]}, "kubernetes": kubernetes}
    config = Config.model_validate({**plain, "models": {"lm": lm}} if lm else plain)
    uses, profile = served_uses(config), config.kubernetes.profile("answer")
    found = [*_references(client, "cpu", profile, wants_keys=bool(uses)), *_keys(client, "cpu", profile, uses)]
    assert VALUE not in str(found)
    return found


def secret(name: str, variable: str) -> dict[str, Any]:
    data = {variable: base64.b64encode(VALUE.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def test_the_secret_that_holds_the_key_is_named(client: KubernetesClient) -> None:
    client.create("secrets", secret("radit-openai", "OPENAI_API_KEY"))
    assert findings(client, lm=LM)[-1].says == "pods get OPENAI_API_KEY from radit-openai"
    other = findings(client, lm={**LM, "api_key_env": "OTHER_KEY"})[-1]
    assert (other.verdict, "nothing gives pods OTHER_KEY" in other.says) == ("fail", True)


def test_without_it_openais_models_fail_and_a_server_of_ones_own_is_warned_of(client: KubernetesClient) -> None:
    missing = findings(client, lm=LM)[-1]
    assert isinstance(missing.error, ConfigError)
    assert "kubectl create secret generic radit-openai" in str(missing.error)
    own = findings(client, lm={**LM, "base_url": "http://vllm:8000/v1"})[-1]
    assert (own.verdict, own.error) == ("warn", None)


def test_the_users_own_secret_counts_as_well(client: KubernetesClient) -> None:
    client.create("secrets", secret("mine", "OPENAI_API_KEY"))
    assert findings(client, lm=LM, env_from=[{"secret": "mine"}])[-1].says == "pods get OPENAI_API_KEY from mine"


def test_what_may_not_be_read_is_said_to_be_unseen(server: KubernetesServer, client: KubernetesClient) -> None:
    server.allow_only([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}])
    found = findings(client, lm=LM)[-1]
    assert found.verdict == "warn"
    assert found.says.endswith("cannot be seen with these permissions; it may be in radit-s3 or radit-openai")


def test_a_run_of_local_models_hears_nothing_of_keys(client: KubernetesClient) -> None:
    assert not [one for one in findings(client) if "radit-openai" in one.says]
