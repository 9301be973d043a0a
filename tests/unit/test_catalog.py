"""Ties the three together: the catalog's rows, the configuration's slices, and the stages' modules."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from radit_job.config.cluster import SHARDED_STAGES, StageName
from radit_job.config.models import Model
from radit_job.config.schema import Config
from radit_job.config.wording import schema_at
from radit_job.jobs import NodeGroup, Shard
from radit_job.models.ledger import Ledger
from radit_job.pipeline.catalog import CATALOG, SOURCES, StageRow

each_row = pytest.mark.parametrize("row", CATALOG, ids=lambda row: row.name)
STAGE_MODULES = [f"radit_job.stages.{row.name}" for row in CATALOG]


def run_of(row: StageRow) -> Any:
    return importlib.import_module(f"radit_job.stages.{row.name}").run


@each_row
def test_a_stage_takes_what_its_row_reads_and_nothing_else(row: StageRow) -> None:
    parameters = inspect.signature(run_of(row)).parameters
    (config, *keywords) = parameters.values()
    assert config.name == "config"
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in keywords)
    artifacts = {name.removesuffix("?") for name in row.reads}
    lineage = {"lineage"} if row.wants_lineage else set()
    shard = {"shard"} if row.is_sharded else set()
    ledger = {"ledger"} if row.pays else set()
    nodes = {"nodes"} if row.spans_nodes else set()
    assert {parameter.name for parameter in keywords} == artifacts | {
        "out",
        "scratch",
    } | lineage | shard | ledger | nodes


@each_row
def test_a_stage_is_typed_as_its_row_says(row: StageRow) -> None:
    run = run_of(row)
    hints = get_type_hints(run)
    assert hints["config"] is row.sees
    assert hints["return"] == dict[str, float]
    if row.is_sharded:
        assert hints["shard"] is Shard
        assert inspect.signature(run).parameters["shard"].default == Shard(0, 1)  # alone, it does everything
    if row.spans_nodes:
        assert hints["nodes"] is NodeGroup
        assert inspect.signature(run).parameters["nodes"].default == NodeGroup(0, 1, "")  # alone
    if row.pays:
        assert hints["ledger"] == Ledger | None
        assert inspect.signature(run).parameters["ledger"].default is None  # then it is kept in memory
    for name in [*row.reads, "out", "scratch"]:
        parameter = inspect.signature(run).parameters[name.removesuffix("?")]
        if name.endswith("?"):
            assert hints[parameter.name] == Path | None
            assert parameter.default is None
        else:
            assert hints[parameter.name] is Path
            assert parameter.default is inspect.Parameter.empty


def test_the_configuration_can_divide_exactly_the_stages_that_can_be_divided() -> None:
    assert set(SHARDED_STAGES) == {row.name for row in CATALOG if row.is_sharded}
    assert set(get_args(StageName)) == {row.name for row in CATALOG}


@each_row
def test_run_is_the_only_public_function_of_a_stage(row: StageRow) -> None:
    module = importlib.import_module(f"radit_job.stages.{row.name}")
    public = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    assert public == ["run"]


def test_every_module_of_the_stages_has_a_row() -> None:
    folder = Path(inspect.getfile(importlib.import_module("radit_job.stages"))).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == {row.name for row in CATALOG}


def test_every_artifact_read_is_written_once_by_an_earlier_row_or_comes_from_the_user() -> None:
    available = list(SOURCES)
    for row in CATALOG:
        missing = {name.removesuffix("?") for name in row.reads} - set(available)
        assert not missing, f"{row.name} reads {missing}, which nothing before it writes"
        available += row.writes
    assert len(available) == len(set(available))


def test_names_of_stages_are_unique_and_versions_count_from_one() -> None:
    assert len({row.name for row in CATALOG}) == len(CATALOG)
    assert all(row.version >= 1 for row in CATALOG)


@each_row
def test_a_slice_is_filled_from_places_that_exist(row: StageRow) -> None:
    for path in row.sees.paths().values():
        assert schema_at(tuple(path.split("."))) is not None, path
    config = Config.model_validate({"name": "x", "corpus": {"paths": ["y"]}})
    plain = row.sees.of(config).model_dump(mode="json")
    assert row.sees.model_validate(plain) == row.sees.of(config)  # as the worker gets it back from its spec


@each_row
def test_the_row_names_exactly_the_models_in_its_slice_that_it_opens(row: StageRow) -> None:
    in_slice = {
        name
        for name, field in row.sees.model_fields.items()
        if field.annotation is Model or Model in get_args(field.annotation)
    }
    assert set(row.models) <= in_slice
    if row.name != "report":  # it only shows the settings
        assert set(row.models) == in_slice


def test_every_section_is_seen_by_some_stage() -> None:
    seen = {path.split(".")[0] for row in CATALOG for path in row.sees.paths().values()}
    assert seen == set(Config.model_fields) - {"name", "store", "kubernetes", "spending"}


def test_every_field_that_can_change_a_number_is_seen_before_the_report() -> None:
    seen = {path for row in CATALOG if row.name != "report" for path in row.sees.paths().values()}
    unseen = set()
    for section, field in Config.model_fields.items():
        kind: Any = field.annotation
        names = [f"{section}.{name}" for name in getattr(kind, "model_fields", {})] or [section]
        unseen |= {name for name in names if name not in seen and section not in seen}
    # The corpus' files are an input, whose content is in the key; name, store, place and price are no part of any key.
    elsewhere = ("kubernetes.", "spending.")
    assert {path for path in unseen if not path.startswith(elsewhere)} == {"name", "store", "corpus.paths"}


@each_row
def test_a_stage_that_opens_a_model_may_pay_for_it(row: StageRow) -> None:
    # ingest takes a tokenizer alone, and what is tuned here is no service's
    assert row.pays == (bool(row.models) and row.name not in ("ingest", "finetune_retriever"))


def test_importing_the_stages_does_not_import_torch() -> None:
    code = (
        f"import sys, {', '.join(STAGE_MODULES)}; print(sorted({{'torch', 'transformers', 'peft'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
