import json

import pytest

from radit_job import errors
from radit_job.errors import ConfigError, CorruptArtifact, InputError, RaditError


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        ("RaditError", 1),
        ("StageFailed", 1),
        ("ConfigError", 64),
        ("InputError", 65),
        ("ServiceError", 69),
        ("StoreError", 69),
        ("CorruptArtifact", 69),
        ("TryAgainError", 75),
        ("Interrupted", 130),
    ],
)
def test_the_exit_code_stands_on_the_class_and_in_the_tree_at_the_top(kind: str, exit_code: int) -> None:
    error = getattr(errors, kind)("x")
    assert isinstance(error, RaditError)
    assert error.exit_code == exit_code
    assert f"{kind} ({exit_code})" in (errors.__doc__ or "")


def test_the_tree_at_the_top_names_every_class() -> None:
    kinds = [name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, RaditError)]
    assert all(f"{name} (" in (errors.__doc__ or "") for name in kinds)
    assert len(kinds) == (errors.__doc__ or "").count("(")


def test_the_message_says_what_where_and_what_to_do() -> None:
    assert str(InputError("no text in it")) == "no text in it"
    assert str(InputError("no text in it", where="a.pdf")) == "a.pdf: no text in it"
    error = InputError("broken JSON", where="pairs.jsonl:17", todo="Mend the line.")
    assert str(error) == "pairs.jsonl:17: broken JSON\n  Mend the line."


def test_an_error_travels_as_json() -> None:
    plain = ConfigError("a\nb", where=None, todo="c").to_json()
    assert json.loads(json.dumps(plain)) == {
        "type": "ConfigError",
        "what": "a\nb",
        "where": None,
        "todo": "c",
        "exit_code": 64,
    }
    assert CorruptArtifact("x").to_json()["type"] == "CorruptArtifact"
