import json
from typing import Any

import pytest

from radit_job.config.canonical import ABSENT, canonical_config, changed_fields, config_digest
from radit_job.config.schema import Config
from radit_job.config.slices import AnswerSlice, EvaluateSlice, IngestSlice


def config(**sections: Any) -> Config:
    return Config.model_validate({"name": "a", "corpus": {"paths": ["p.pdf"]}, **sections})


def test_name_store_cluster_and_spending_do_not_change_the_digest_and_everything_else_does() -> None:
    base = config_digest(config())
    assert config_digest(config(name="b", store="elsewhere")) == base
    assert config_digest(config(kubernetes={"profiles": {"gpu": {"memory_gib": 40}}})) == base
    assert config_digest(config(spending={"budget_usd": 1, "prices": {"m": {"input_usd": 1}}})) == base
    assert config_digest(config(seed=8)) != base
    assert config_digest(config(corpus={"paths": ["q.pdf"]})) != base
    assert config_digest(config(answer={"max_new_tokens": 127})) != base


def test_a_default_written_out_has_the_digest_of_the_default_left_out() -> None:
    whole = config().model_dump(mode="json")
    assert config_digest(Config.model_validate(whole)) == config_digest(config())
    assert isinstance(config().finetune_lm.epochs, float)
    assert config_digest(config(finetune_lm={"epochs": 3})) == config_digest(config())  # 3, not 3.0


def test_the_canonical_configuration_is_json() -> None:
    canonical = canonical_config(config())
    assert json.loads(json.dumps(canonical)) == canonical
    assert set(canonical) == set(Config.model_fields) - {"name", "store", "kubernetes", "spending"}


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        (
            {"retrieval": {"k": 3, "context": "joined"}},
            {"retrieval": {"k": 5, "context": "joined"}},
            ["retrieval.k", 3, 5],
        ),
        ({"arms": ["lm"]}, {"arms": ["base", "lm"]}, ["arms", ["lm"], ["base", "lm"]]),
        ({"judge": None}, {"judge": {"name": "x"}}, ["judge", None, {"name": "x"}]),
        ({"a": 1}, {"a": 1, "b": None}, ["b", ABSENT, None]),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {}}}, ["a.b.c", 1, ABSENT]),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, None),
    ],
)
def test_changed_fields(old: dict[str, Any], new: dict[str, Any], changes: list[Any] | None) -> None:
    assert changed_fields(old, new) == ([tuple(changes)] if changes else [])


def test_a_change_shows_in_the_slices_that_see_it_and_in_no_other() -> None:
    before, after = config(), config(retrieval={"k": 5}, evaluate={"recall_at": [1]})

    def changes(kind: Any) -> list[tuple[str, Any, Any]]:
        return changed_fields(kind.of(before).model_dump(mode="json"), kind.of(after).model_dump(mode="json"))

    assert changes(IngestSlice) == []
    assert changes(AnswerSlice) == [("retrieval.k", 3, 5)]
    assert changes(EvaluateSlice) == [("recall_at", [1, 5], [1]), ("k", 3, 5)]
