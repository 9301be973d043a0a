import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radit_job.hashing import CHUNK_BYTES, canonical_json, digest, digest_file, digest_text, short

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_the_digest_of_a_known_value_never_changes() -> None:
    # Keys of stored artifacts hang on this: if it changes, everybody's runs start from nothing.
    value = {"k": 3, "a": [1.5, None, True, "ü"]}
    assert canonical_json(value) == '{"a":[1.5,null,true,"ü"],"k":3}'
    assert digest(value) == "sha256:" + hashlib.sha256('{"a":[1.5,null,true,"ü"],"k":3}'.encode()).hexdigest()


@settings(deadline=None, derandomize=True)
@given(st.dictionaries(st.text(), plain, min_size=2, max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert digest(dict(reversed(value.items()))) == digest(value)


def test_order_in_a_list_and_the_type_of_a_value_do_matter() -> None:
    values = [[1, 2], [2, 1], ["1", 2], [[1], 2], [True, 2], [None, 2]]
    assert len({digest(value) for value in values}) == len(values)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_what_has_no_json_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


@pytest.mark.parametrize("n_bytes", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path, n_bytes: int) -> None:
    content = b"x" * n_bytes
    path = tmp_path / "file"
    path.write_bytes(content)
    assert digest_file(path) == "sha256:" + hashlib.sha256(content).hexdigest()


def test_a_text_has_the_digest_of_its_utf8_bytes_and_short_is_its_beginning() -> None:
    tagged = digest_text("naïve")
    assert tagged == "sha256:" + hashlib.sha256("naïve".encode()).hexdigest()
    assert short(tagged) == tagged[7:17]
    assert short(tagged, 4) == tagged[7:11]
