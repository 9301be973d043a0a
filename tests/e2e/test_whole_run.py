from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time

from tests.e2e.conftest import Workplace, environment

STAGES = ["ingest", "index", "generate", "split", "augment", "finetune_lm", "score", "finetune_retriever"]
STAGES += ["answer", "evaluate", "benchmark", "report"]


def test_a_run_ends_with_results_a_table_and_a_page(finished: Workplace) -> None:
    results = finished.results()
    assert [stage["stage"] for stage in results["stages"]] == STAGES
    assert results["arms"] == ["closed_book", "base", "few_shot", "lm", "retriever", "dual"]
    val = {(row["arm"], row["metric"]): row for row in results["rows"] if row["split"] == "val"}
    assert val["lm", "token_f1"]["n"] + val["lm", "token_f1"]["n_failed"] >= 8
    assert val["base", "recall_at_1"]["mean"] > 0.9  # the quarry's own name is in the question
    assert val["lm", "answer_nats_per_token"]["mean"] < val["base", "answer_nats_per_token"]["mean"]
    pair = next(
        pair for pair in results["pairs"] if pair["metric"] == "answer_nats_per_token" and pair["split"] == "val"
    )
    assert {"arm", "against", "delta", "low", "high", "n"} <= pair.keys()
    page = (finished.folder / ".radit/runs/small/report.html").read_text()
    assert not re.search(r'(src|href)="https?://', page)
    table = finished.radit("results", "small").stdout
    assert all(len(line) <= 80 for line in table.splitlines())
    assert "closed_book" in table or "closed book" in table


def test_a_second_run_is_all_cached_quick_and_light(finished: Workplace) -> None:
    code = (
        "import sys; from radit_job.cli import app; app(['run', 'small.yaml'], standalone_mode=False);"
        "print('heavy:', sorted({'torch', 'transformers', 'llama_index'} & set(sys.modules)))"
    )
    started_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=finished.folder, env=environment(), capture_output=True, text=True
    )
    assert time.monotonic() - started_s < 20  # generous: the machine may be busy; a stage that ran would take longer
    assert "heavy: []" in done.stdout, done.stderr
    assert {stage for stage, status in finished.statuses().items() if status != "cached"} == {"benchmark"}  # it is off


def test_a_changed_metric_setting_reruns_evaluate_and_report_alone(finished: Workplace) -> None:
    change = ["--set", "evaluate.recall_at=[1,2]", "--name", "metric"]
    assert finished.radit("run", "small.yaml", *change).returncode == 0
    ran = [stage for stage, status in finished.statuses(run="metric").items() if status == "done"]
    assert ran == ["evaluate", "report"]


def test_the_plan_says_why(finished: Workplace) -> None:
    plan = finished.radit("plan", "small.yaml", "--set", "chunking.size_tokens=96").stdout
    assert re.search(r"ingest\s+run\s+chunking.size_tokens changed from 64 to 96", plan)
    assert re.search(r"generate\s+waits\s+behind ingest", plan)


def test_status_logs_and_report_speak_of_the_run(finished: Workplace) -> None:
    assert re.search(r"finetune_lm +(done|cached)", finished.radit("status", "small").stdout)
    assert "small" in finished.radit("status").stdout
    assert "committed" in finished.radit("logs", "small", "ingest").stdout
    assert finished.radit("report", "small", "-o", "page.html").returncode == 0
    assert (finished.folder / "page.html").stat().st_size > 5_000
    rows = json.loads(finished.radit("results", "small", "--format", "json").stdout)["rows"]
    assert len(finished.radit("results", "small", "--format", "csv").stdout.splitlines()) > len(rows) / 2


def test_ask_answers_with_its_sources(finished: Workplace) -> None:
    done = finished.radit("ask", "small", "How much stone does the quarry of garnet yield?", "--arm", "lm")
    assert done.returncode == 0, done.stderr
    assert "garnet.txt" in done.stdout


def test_an_open_run_is_llamaindex_objects(finished: Workplace) -> None:
    from llama_index.core.base.response.schema import Response

    from radit_job import open_run

    run = open_run(str(finished.folder / ".radit"), "small")
    nodes = run.retriever("lm").retrieve("Who built the road to the mica quarry?")
    assert len(nodes) == 2
    assert nodes[0].node.metadata["document"] == "mica.txt"
    response = run.query_engine("lm").query("How much stone does the quarry of mica yield?")
    assert isinstance(response, Response)
    assert response.source_nodes[0].node.metadata["document"] == "mica.txt"
    assert run.results() == finished.results()["rows"]


def test_gc_keeps_what_runs_refer_to(finished: Workplace) -> None:
    assert (
        finished.radit("run", "small.yaml", "--set", "evaluate.bootstrap_samples=300", "--name", "gone").returncode == 0
    )
    shutil.rmtree(finished.folder / ".radit/runs/gone")
    done = finished.radit("gc", "--yes")
    assert re.search(r"GiB  evaluate/", done.stdout)
    assert "finetune_lm/" not in done.stdout
    finished.radit("run", "small.yaml")
    assert {stage for stage, status in finished.statuses().items() if status != "cached"} == {"benchmark"}  # it is off
