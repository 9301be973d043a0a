"""What can be known of served models before spending: their keys, servers, names and prices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from radit_job.config.models import Model
from radit_job.config.schema import Config
from radit_job.errors import ConfigError, RaditError
from radit_job.model_ref import OPENAI_URL, ModelRef, key_variable
from radit_job.models.cost import Price, Prices
from radit_job.pipeline.findings import Finding
from radit_job.pipeline.served import Use, served_uses
from radit_job.pipeline.spending import prices_of

TIMEOUT_S, PATIENCE_S = 5.0, 10.0  # somebody waits
NO_LIST = (404, 405, 501)  # of a server that does not list its models


def served_findings(config: Config, *, by_pods: bool = False) -> Iterator[Finding]:
    """Look at each served model's key, server, name and price; nothing is spent.

    `by_pods`: the calls will come from a cluster, whose pods have keys of their own, and may reach other addresses.
    """
    uses = served_uses(config)
    roles: dict[Model, list[str]] = {}
    for use in uses:
        if use.role not in roles.setdefault(use.model, []):
            roles[use.model].append(use.role)
    listed: dict[tuple[str, str | None], list[str] | Finding] = {}
    for model, names in roles.items():
        server = (model.base_url, key_variable(model.ref()))
        if server not in listed:
            listed[server] = found = _ask(model.ref(), by_pods=by_pods)
            if isinstance(found, Finding):
                yield found
        found = listed[server]
        if not isinstance(found, Finding):
            yield _is_known(", ".join(names), model, found)
    if uses:
        yield from _prices(config, uses)


def _ask(ref: ModelRef, *, by_pods: bool) -> list[str] | Finding:
    """The names that the server lists, or why there are none."""
    from radit_job.models.openai_api.client import Endpoint
    from radit_job.models.openai_api.failures import CallFailed
    from radit_job.models.openai_api.patience import patiently  # late: only who pays needs the client

    subject = "server"
    variable = key_variable(ref)
    lacks_key = variable is not None and not _is_set(variable)
    if by_pods and lacks_key and ref.base_url == OPENAI_URL:
        return Finding(subject, "warn", f"{ref.base_url} is not asked: {variable} is not set on this machine")
    quick = replace(ref, timeout_s=TIMEOUT_S, patience_s=PATIENCE_S)
    try:
        with closing(Endpoint.open(quick)) as endpoint:
            return patiently(endpoint.models, quick)
    except RaditError as error:
        failure = error.__cause__ if isinstance(error.__cause__, CallFailed) else None
        if failure is not None and failure.status in NO_LIST:
            hint = "" if "/v1" in ref.base_url else "; most servers want a base_url that ends in /v1"
            return Finding(subject, "warn", f"{ref.base_url} answers, but lists no models: {failure.message}{hint}")
        if by_pods and failure is not None and failure.status is None:
            return Finding(subject, "warn", f"from here {error.what}; the pods may reach it ({ref.base_url})")
        if by_pods and lacks_key:
            return Finding(subject, "warn", f"{error.what}; {variable} is not set here, the pods may have it")
        return Finding(subject, "fail", str(error), error)


def _is_known(roles: str, model: Model, listed: list[str]) -> Finding:
    variable = key_variable(model.ref())
    key = f"{variable} is set" if variable and _is_set(variable) else "without a key"
    if model.name in listed:
        return Finding(roles, "ok", f"{model.name} at {model.base_url}: listed there, {key}")
    says = f"{model.name} is not among the {len(listed)} models that {model.base_url} lists ({key}): is it spelt right?"
    return Finding(roles, "warn", says)


def _prices(config: Config, uses: list[Use]) -> Iterator[Finding]:
    missing = missing_prices(config, uses)
    try:
        refuse_unpriced(config)
    except ConfigError as error:
        yield Finding("prices", "fail", str(error), error)
        return
    if missing:
        yield Finding("prices", "warn", f"unknown: {'; '.join(missing)}. What the run costs will be unknown, too.")
    else:
        yield Finding("prices", "ok", "every model that may cost money has one")


def refuse_unpriced(config: Config) -> None:
    """ConfigError where there is a budget and a price is missing: before the first call, not before the last."""
    missing = missing_prices(config, served_uses(config))
    if missing and config.spending.budget_usd is not None:
        raise ConfigError(
            f"there is a budget, but no price for {'; '.join(missing)}",
            where="spending.prices",
            todo="Give their prices, 0 where a model costs nothing.",
        )


def missing_prices(config: Config, uses: list[Use]) -> list[str]:
    """The models without a price that is needed, in words, each once."""
    prices = Prices({name: Price(**plain) for name, plain in prices_of(config).items()})
    missing = []
    for use in uses:
        price = prices.of(use.priced_as)
        if use.is_training and (price is None or price.training_usd is None):
            missing.append(f"training {use.priced_as} (training_usd)")
        elif price is None:
            missing.append(use.priced_as)
    return list(dict.fromkeys(missing))


def _is_set(variable: str) -> bool:
    return bool(os.environ.get(variable, "").strip())
