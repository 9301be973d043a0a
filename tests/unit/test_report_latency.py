"""The latency section and the terminal's table, from a latency.json as the stage writes it."""

import io
import xml.etree.ElementTree as ElementTree

import pytest
from rich.console import Console

from radit_job.report.bars import Bar, BarGroup, Segment, stacked_bars
from radit_job.report.curves import Line, clients_curve
from radit_job.report.latency import Latency, facts, percent, rate, seconds
from radit_job.report.latency_section import section
from radit_job.report.latency_table import calls_text, latency_table
from tests.unit.latency_measured import CALLS, failed_row, measured, row

SERVED = {"name": "gpt-4o-mini", "provider": "openai", "dtype": None, "n_weights": None, "context_tokens": None}


def parts(svg, name):
    return [part for part in ElementTree.fromstring(svg).iter() if part.tag.endswith(name)]


def printed(plain, run="quickstart"):
    console = Console(width=80, file=io.StringIO(), force_terminal=False, highlight=False)
    console.print(latency_table(plain, run=run))
    return console.file.getvalue()


def served():
    """A server's machine is not here: it has no floor."""
    return measured(model=SERVED, machine=None, rows=[row("radit", "query", n, 1.0, floor=False) for n in (1, 2)])


def test_figures_are_written_with_three_digits_and_no_more():
    assert [seconds(value) for value in (None, 0.0004, 0.0994, 0.0996, 1.937, 9.996, 12.34, 99.96, 1204.4)] == [
        *("–", "0.000", "0.099", "0.10", "1.94", "10.0", "12.3", "100", "1,204")
    ]
    assert [rate(value) for value in (None, 1.0, 99.94, 99.96, 4012.0)] == ["–", "1.0", "99.9", "100", "4,012"]
    assert [percent(value) for value in (None, 0.0, 0.004, 0.714)] == ["–", "0", "< 1", "71"]


def test_the_bars_add_up_to_the_mean_and_the_floor_stands_where_it_is():
    found = section(measured(rows=[row("radit", "query", 1, 2.0)]))
    rects = parts(found["bars"], "rect")
    # The axis goes to 2 seconds, so the whole bar fills it.
    assert sum(float(rect.get("width").rstrip("%")) for rect in rects) == pytest.approx(100.0, abs=0.01)
    assert [rect.get("class") for rect in rects] == [f"part-{part}" for part, _ in found["part_keys"]]
    (floor,) = [line for line in parts(found["bars"], "line") if line.get("class") == "floor"]
    assert floor.get("x1") == "53.00%"  # 0.11 s of prefill and 0.95 s of decode
    assert "2.00 s, floor 1.06 s" in found["bars"]
    assert "RAG query: radit 2.00 s, floor 1.06 s" in parts(found["bars"], "desc")[0].text


def test_bars_are_of_the_fewest_clients_and_curves_of_all():
    found = section(measured())
    assert found["fewest_clients"] == 1
    assert len([line for line in parts(found["bars"], "line") if line.get("class") == "floor"]) == 6
    lines = {line.get("class"): line.get("points") for line in parts(found["latency_curve"], "polyline")}
    assert list(lines) == ["engine-0 tail", "engine-0", "engine-1 tail", "engine-1"]
    across = [float(point.split(",")[0]) for point in lines["engine-0"].split()]
    assert across == pytest.approx([0, 33.33, 66.67, 100])  # 1, 2, 4 and 8 clients: equal steps
    ticks = [part.text for part in parts(found["throughput_curve"], "text") if part.get("text-anchor") == "middle"]
    assert ticks == ["1", "2", "4", "8", "clients at the same time"]
    assert "LlamaIndex, median, clients 8: 8.952" in found["latency_curve"]


def test_rows_of_one_task_stand_together_so_that_engines_can_be_compared():
    rows = [(item.task, item.concurrency, item.engine) for item in section(measured())["rows"]]
    assert rows == [
        (task, n, engine)
        for task in ("rewrite", "query", "complete")
        for n in (1, 2, 4, 8)
        for engine in ("radit", "llamaindex")
    ]


def test_one_number_of_clients_makes_no_curve():
    found = section(measured(rows=[row("radit", "query", 4, 2.0)]))
    assert found["latency_curve"] == found["throughput_curve"] == ""
    assert found["fewest_clients"] == 4 and found["bars"]


def test_without_a_benchmark_there_is_no_section():
    assert section(None) is None


def test_what_failed_is_counted_and_never_a_number():
    plain = measured(rows=[failed_row("radit", "query", 1), row("llamaindex", "query", 1, 2.0)])
    found = section(plain)
    assert found["failures"] == ["radit, RAG query, 1 client: 12 of 12"]
    assert len({rect.get("y") for rect in parts(found["bars"], "rect")}) == 1  # LlamaIndex's bar alone
    text = printed(plain)
    (line,) = [line for line in text.splitlines() if line.startswith("query") and " 2.00" not in line and "-" in line][
        :1
    ]
    assert line.split() == ["query", "1", *"--------"]
    assert "failed, in no figure: radit, RAG query, 1 client: 12 of 12." in text


def test_all_failed_gives_tables_and_no_figure():
    plain = measured(rows=[failed_row("radit", "query", n) for n in (1, 2)])
    found = section(plain)
    assert found["bars"] == found["latency_curve"] == "" and not found["has_floor"]
    assert "2 clients: 12 of 12" in " ".join(printed(plain).split())


def test_a_served_model_has_no_floor_and_its_prefill_is_the_time_to_the_first_token():
    found = section(served())
    assert not found["has_floor"] and 'class="floor"' not in found["bars"]
    assert "network" in dict(found["part_keys"])["prefill"]
    assert found["facts"]["language model"] == "gpt-4o-mini (served)" and "machine" not in found["facts"]
    text = printed(served())
    assert "floor" not in text and "network" in text and "Machine" not in text


@pytest.mark.parametrize("plain", [measured(), served(), measured(rows=[row("radit", "query", 1024, 4000.0)])])
def test_no_line_of_the_terminal_is_wider_than_80_columns_and_nothing_is_cut(plain):
    text = printed(plain)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text


def test_the_terminal_shows_every_row_with_its_shares():
    text = printed(measured())
    assert text.isascii()
    head, _, shares = text.partition("where the time goes, % of the mean")
    assert "quickstart: smollm2-135m-instruct (135 million weights, float32)" in head
    rows = [line.split() for line in head.splitlines() if line.startswith("query")]
    assert rows[0] == ["query", "1", "1.42", "1.74", "1.96", "0.43", "22.1", "0.69", "1.06", "1.3"]
    rows = [line.split() for line in shares.splitlines() if line.startswith("query  ")]
    assert rows[0] == ["query", "1", "1.0", "212", "32.0", "1", "<1", "<1", "26", "71", "1"]
    (first, *_) = [line.split() for line in shares.splitlines() if line.startswith("rewrite  ")]
    assert first[5:7] == ["-", "-"]  # rewriting embeds and retrieves nothing
    assert "- A query takes 1.4 s (median)" in text and "- warning: generation_config.json" in text


def test_the_facts_name_what_was_timed():
    assert facts(Latency(measured())) == {
        "language model": "smollm2-135m-instruct (135 million weights, float32)",
        "embedder": "all-minilm-l6-v2",
        "machine": "AMD EPYC, 2 threads: 21 GB/s and 298 GFLOP/s in float32",
        "asked": "4 questions in 3 rounds, after 1 round of warm-up",
        "context": "2 chunks of 1,204, joined",
        "answers": "up to 32 tokens",
        "peak memory": "1.42 GiB",
        "measured": "2026-11-21 20:15:00 UTC",
    }


def test_the_prompts_are_shown_as_the_model_got_them():
    text = "\n".join(calls_text(CALLS))
    assert "radit, RAG query: What is LSR?" in text
    assert "prompt (212 tokens):\n  <|im_start|>user\n  Context: <b>LSR</b>" in text
    assert "completion (9 tokens):\n  A way to train the query encoder." in text


def test_unknown_engines_and_tasks_keep_their_names_and_cannot_leave_the_figure():
    plain = measured(rows=[row('"><script>', "query", n, 1.0) | {"task": "query"} for n in (1, 2)])
    found = section(plain)
    for name in ("bars", "latency_curve", "throughput_curve"):
        assert "<script" not in found[name]
        ElementTree.fromstring(found[name])


def test_nothing_gives_no_figure():
    assert stacked_bars([], title="t", description="d", axis_label="s") == ""
    assert stacked_bars([BarGroup("g", (Bar("b", (), ""),))], title="t", description="d", axis_label="s") == ""
    assert clients_curve([Line("a", [])], title="t", description="d") == ""


def test_a_bar_s_segments_follow_each_other():
    bar = Bar("b", (Segment("x", 1.0, "one"), Segment("y", 3.0, "three")), "4")
    first, second = parts(stacked_bars([BarGroup("g", (bar,))], title="t", description="d", axis_label="s"), "rect")
    assert (first.get("x"), first.get("width")) == ("0.000%", "25.000%")
    assert (second.get("x"), second.get("width")) == ("25.000%", "75.000%")
