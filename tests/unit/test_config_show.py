from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from radit_job.config.loading import load_config
from radit_job.config.schema import Config
from radit_job.config.show import EXAMPLES, WIDTH, config_as_yaml, schema_as_yaml
from radit_job.config.wording import entries_of, fields_of, in_words, items_of, whole_schema


def comments(text: str) -> str:
    """All comments as one flowing text, for they are wrapped."""
    lines = (line.strip() for line in text.splitlines())
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def all_fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for field in fields_of(schema).values():
        found += [field, *all_fields(field), *all_fields(items_of(field) or {}), *all_fields(entries_of(field) or {})]
    return found


def test_the_schema_loads_again_to_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(schema_as_yaml(), encoding="utf-8")
    assert load_config(path).config == Config.model_validate(EXAMPLES)


def test_every_field_of_every_section_appears_with_all_that_is_known_of_it() -> None:
    text = comments(schema_as_yaml())
    fields = all_fields(whole_schema())
    assert len(fields) > 110
    for field in fields:
        if "description" in field:
            assert field["description"] in text
        if not fields_of(field):
            words = in_words(field)
            assert words[0].upper() + words[1:] in text
            assert field["origin"] == "required" or f"Why: {field['origin']}." in text


def test_every_field_of_the_schema_is_documented() -> None:
    for section in [Config, *(kind.annotation for kind in Config.model_fields.values())]:
        for name, field in getattr(section, "model_fields", {}).items():
            assert field.description or issubclass(field.annotation, Config.__mro__[1]), f"{section}.{name}"


def test_the_order_is_the_schemas_and_comments_fit_a_terminal() -> None:
    text = schema_as_yaml()
    assert list(yaml.safe_load(text)) == list(Config.model_fields)
    assert list(yaml.safe_load(text)["finetune_lm"]) == list(Config.model_fields["finetune_lm"].annotation.model_fields)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert max(len(line) for line in text.splitlines() if line.lstrip().startswith("#")) <= WIDTH


def test_a_section_that_is_null_says_whose_fields_it_has() -> None:
    assert "Null, or a section with the fields of models.embedder." in comments(schema_as_yaml())


@pytest.mark.parametrize("judge", [None, {"provider": "huggingface", "name": "org/judge", "revision": "main"}])
def test_a_configuration_shown_is_the_configuration(judge: dict[str, str] | None) -> None:
    config = Config.model_validate({**EXAMPLES, "models": {"judge": judge}, "finetune_lm": {"learning_rate": 1e-5}})
    assert Config.model_validate(yaml.safe_load(config_as_yaml(config))) == config


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.text(st.characters(blacklist_categories=["Cs"])), path=st.text(min_size=1))
@example(text="a\n  indented \n\n", path="\x85")
@example(text=' \u2028\n\\ "', path="a, b: #c")
def test_any_text_survives(text: str, path: str) -> None:
    values = {"name": "x", "corpus": {"paths": [path, "b" * 90]}, "retrieval": {"system_prompt": text}}
    config = Config.model_validate(values)
    assert Config.model_validate(yaml.safe_load(config_as_yaml(config))) == config


def test_sections_under_names_of_the_users_own_are_explained_once() -> None:
    text = schema_as_yaml()
    assert text.count("# Another image than kubernetes.image") == 1
    assert "    # Fields: as in kubernetes.profiles.cpu.\n    gpu:\n" in text
    assert "# One of kubernetes.profiles.\n  #     # A Kubernetes name" in text


def test_a_commented_example_is_the_configuration_that_it_seems() -> None:
    lines = schema_as_yaml().splitlines()
    start = lines.index("  # stages:")
    block = [line.removeprefix("  # ").removeprefix("  #") for line in lines[start : lines.index("  stages: {}")]]
    stages = yaml.safe_load("\n".join(block))["stages"]
    assert stages == {"ingest": {"profile": "cpu", "shards": 1, "deadline_s": None}}
    Config.model_validate({**EXAMPLES, "kubernetes": {"stages": stages}})
    start = lines.index("      # tolerations:")
    block = [line.removeprefix("      #") for line in lines[start : lines.index("      tolerations: []")]]
    assert [*yaml.safe_load("\n".join(block))["tolerations"][0]] == ["key", "operator", "value", "effect"]


def test_a_clusters_settings_are_shown_as_they_are() -> None:
    gpu = {
        "node_selector": {"yes": "no", "nvidia.com/gpu.present": "true", "1": ""},
        "tolerations": [{"key": "a", "value": "b"}],
        "pod_template": {"spec": {"hostNetwork": None, "containers": [{"name": "stage", "$patch": "delete"}], "e": {}}},
    }
    stages = {"answer": {"profile": "gpu", "shards": 4}}
    config = Config.model_validate({**EXAMPLES, "kubernetes": {"profiles": {"gpu": gpu}, "stages": stages}})
    assert Config.model_validate(yaml.safe_load(config_as_yaml(config))) == config
