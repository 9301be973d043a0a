"""The report stage on real rows: predictions measured by the project's own metrics, then rendered."""

import dataclasses
import html.parser
import json
import re
from dataclasses import replace

import pytest

from radit_job.config.schema import Config
from radit_job.config.slices import ReportSlice
from radit_job.rag.comparison import compare, summarize
from radit_job.rag.metrics import TEXT_METRICS
from radit_job.records import (
    CandidateScores,
    Chunk,
    DocumentRow,
    Dropped,
    Prediction,
    Question,
    Score,
    read_rows,
    write_rows,
)
from radit_job.stages.report import run
from tests.unit.latency_measured import measured

HOSTILE = "<script>alert('x')</script> & <img src=x onerror=alert(1)>"
METRICS = ("exact_match", "token_f1", "answer_words")
VOID = {"meta", "input", "br", "link", "img"}
LINEAGE = [
    {
        "stage": "ingest",
        "key": "sha256:" + "a1" * 32,
        "artifacts": [{"artifact": "chunks", "digest": "sha256:" + "b2" * 32, "n_bytes": 4096, "n_files": 2}],
        "inputs": [{"artifact": "corpus", "stage": "corpus", "key": "k", "digest": "sha256:" + "c3" * 32}],
        "seconds": 3.25,
        "peak_memory_gib": 0.5,
        "counters": {"n_chunks": 12},
        "versions": {"python": "3.11.2"},
        "run": "first",
        "finished_at": "2026-01-02T03:04:05Z",
    }
]


class Balance(html.parser.HTMLParser):
    """Every element that is opened is closed, in order; scripts and addresses are collected."""

    def __init__(self):
        super().__init__()
        self.open, self.scripts, self.addresses, self.texts = [], 0, [], []

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action")]
        assert not [name for name, _ in attributes if name.startswith("on")], "an inline event handler"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def artifacts(tmp_path):
    """Twelve held-out questions whose base answers are wordy and whose tuned answers are right."""
    questions = [
        Question(f"q{i:02d}", f"What is part {i}?", f"part {i} is a valve", "plan.pdf", (f"plan.pdf#{i:05d}",), "file")
        for i in range(18)
    ]
    chunks = [Chunk(f"plan.pdf#{i:05d}", "plan.pdf", 1 + i // 4, 0, 10, 5, "text") for i in range(18)]
    write_rows(tmp_path / "chunks/chunks.jsonl", chunks)
    documents = [
        DocumentRow("plan.pdf", "read", "", 5, 900, 18),
        DocumentRow("scan.pdf", "skipped", "no text: it looks scanned", 1, 0, 0),
    ]
    write_rows(tmp_path / "chunks/documents.jsonl", documents)
    write_rows(tmp_path / "questions/000000/questions.jsonl", questions)
    write_rows(
        tmp_path / "questions/000000/dropped.jsonl",
        [Dropped("empty_answer", f"pairs.jsonl:{i}", HOSTILE) for i in range(30)],
    )
    write_rows(tmp_path / "train_questions/questions.jsonl", questions[12:])
    write_rows(tmp_path / "val_questions/questions.jsonl", questions[:12])
    write(tmp_path, [*answers("base", questions[:12]), *answers("lm", questions[:12])])
    training = {
        "steps": [{"step": step, "loss": 2.0 - step / 20, "learning_rate": 5e-4} for step in range(1, 11)],
        "evaluations": [{"step": 5, "epoch": 1, "dev_loss": 1.8}, {"step": 10, "epoch": 2, "dev_loss": 1.7}],
        "best_step": 10,
        "n_train": 16,
        "n_dev": 2,
        "n_truncated": 3,
        "dtype": "float32",
    }
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm/training.json").write_text(json.dumps(training))
    return tmp_path


def prediction(question, arm, answer, chunk_ids, gold_rank):
    return Prediction(
        question_id=question.question_id,
        arm=arm,
        split="val",
        question=question.question,
        reference=question.answer,
        answer=answer,
        chunk_ids=chunk_ids,
        scores=(0.5,) * len(chunk_ids),
        gold_chunk_ids=question.chunk_ids,
        gold_rank=gold_rank,
        n_prompt_tokens=90,
        n_completion_tokens=9,
        finish_reason="stop",
        answer_nats_per_token=None,
        error=None,
    )


def answers(arm, questions):
    for position, question in enumerate(questions):
        text = (
            question.answer if arm == "lm" else f"the manual says that {question.answer} or so, among many other things"
        )
        if arm == "lm" and position == 3:
            text = HOSTILE
        yield prediction(question, arm, text, (question.chunk_ids[0], "plan.pdf#00017"), 1)


def write(folder, predictions):
    """Predictions with the scores and results that the metrics give them."""
    scores = [
        Score(
            row.question_id,
            row.arm,
            row.split,
            metric,
            None if row.error else measure(row.answer, row.reference),
            row.error,
        )
        for row in predictions
        for metric in METRICS
        for measure in [TEXT_METRICS[metric]]
    ]
    write_rows(folder / "predictions/predictions.jsonl", predictions)
    write_rows(folder / "scores/scores.jsonl", scores)
    results = {
        "format": 1,
        "arms": list(dict.fromkeys(row.arm for row in predictions)),
        "rows": summarize(scores, samples=200, seed=1),
        "pairs": compare(scores, ["token_f1", "exact_match"], samples=200, seed=1),
    }
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results/results.json").write_text(json.dumps(results))


def add_retriever(folder, *, recall, **changes):
    """A tuned retriever: its arms' answers, its figures on the twelve questions, and what its training left behind."""
    val = list(read_rows(folder / "val_questions/questions.jsonl", Question))
    other = [
        prediction(row, arm, row.answer, ("plan.pdf#00016", row.chunk_ids[0]), 2)
        for arm in ("retriever", "dual")
        for row in val
    ]
    write(folder, [*answers("base", val), *answers("lm", val), *other])
    path = folder / "results/results.json"
    results = json.loads(path.read_text())
    of = {"split": "val", "metric": "recall_at_3", "n": 12}
    for arm, value in (("base", 0.5), ("retriever", 0.6)):
        results["rows"].append(of | {"arm": arm, "mean": value, "low": 0.3, "high": 0.8, "n_failed": 0})
    ends = dict(zip(("delta", "low", "high"), recall, strict=True))
    results["pairs"].append(of | {"arm": "retriever", "against": "base"} | ends)
    path.write_text(json.dumps(results))
    epochs = [
        {
            "epoch": n,
            "phase": "lsr",
            "dev_kl_nats": 0.4 - n / 50,
            "dev_recall": {"3": 0.5},
            "dev_mrr": 0.4,
            "dev_n_gold": 2,
        }
        for n in range(3)
    ]
    training = {
        "settings": {"divergence": "forward"},
        "n_train": 4,
        "n_dev": 2,
        "n_candidates": 8,
        "best_epoch": 2,
        "steps": [{"step": 1, "loss": 0.4, "retriever_entropy_nats": 2.0, "learning_rate": 2e-5}],
        "epochs": epochs,
        "target": {"entropy_nats": 1.2, "max_entropy_nats": 2.0794},
    }
    (folder / "retriever").mkdir()
    (folder / "retriever/training.json").write_text(json.dumps(training | changes))
    scored = CandidateScores("q12", "Q?", "g", ("a",), ("a", "b"), (0.4, 0.5), (-20.0, -25.0), 10)
    write_rows(folder / "lm_scores/000000.jsonl", [scored])


def report(folder, *, lm=True, lineage=LINEAGE, **settings):
    config = ReportSlice.of(Config(name="test", corpus={"paths": ["plan.pdf"]}, **settings))
    names = ("chunks", "questions", "train_questions", "val_questions", "predictions", "scores", "results")
    out = folder / "out"
    out.mkdir(exist_ok=True)
    inputs = {name: folder / name for name in names}
    inputs |= {name: folder / name for name in ("lm_scores", "retriever", "latency") if (folder / name).exists()}
    counters = run(config, **inputs, lm=folder / "lm" if lm else None, lineage=lineage, out=out, scratch=folder)
    page = (out / "report/report.html").read_text(encoding="utf-8")
    assert counters["n_bytes"] == len(page.encode())
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    return page, balance


def test_the_page_needs_nothing_from_outside(artifacts):
    page, balance = report(artifacts)
    assert balance.addresses
    assert all(address.startswith("#") for address in balance.addresses)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_what_stands_in_an_answer_is_text(artifacts):
    page, balance = report(artifacts)
    assert "alert('x')</script>" not in page
    assert "<img" not in page
    assert balance.scripts == 1  # the page's own
    assert any(HOSTILE in text for text in balance.texts)


def test_every_section_link_leads_somewhere(artifacts):
    page, balance = report(artifacts)
    assert {address.removeprefix("#") for address in balance.addresses} <= set(re.findall(r'id="([\w-]+)"', page))


def test_the_page_tells_the_whole_story(artifacts):
    page, balance = report(artifacts)
    text = " ".join(" ".join(balance.texts).split())
    for said in (
        "Tuned LM against base on 12 held-out questions: token F1",
        "scan.pdf",
        "it looks scanned",
        "30 dropped.",
        "and 10 more in dropped.jsonl",
        "3 training examples lost part of the context",
        "kept: step 10",
        "plan.pdf, p. 1",
        "size_tokens: 254",
        "bootstrap_samples: 10000",
        "question_writer:",
        "on 12 passages",
        "4.0 KiB, 2 files",
        "b2b2b2b2b2",
        "3.2 s",
    ):
        assert said in text, said
    assert f'title="sha256:{"b2" * 32}"' in page


def test_a_tuned_retriever_is_shown_with_its_training(artifacts):
    add_retriever(artifacts, recall=(0.1, 0.02, 0.18))
    page, balance = report(artifacts)
    text = " ".join(" ".join(balance.texts).split())
    for said in (
        "Retriever The tuned retriever gained: recall@3 0.50 → 0.60, a difference of +0.10 [0.02, 0.18].",
        "Both halves The tuned retriever adds nothing that one could claim to the tuned LM",
        "With the retriever tuned, too: ",
        "metric untuned tuned difference n recall@3",
        "KL divergence on training questions held out",
        "of the 2 of them whose gold chunk is known",
        "entropy of the target 1.20 of at most 2.08 nats (58 %)",
        "KL(target ‖ retriever)",
        "kept encoder epoch 2",
        "100 % of 1 (the untuned retriever’s first: 0 %)",
        "The epochs as a table epoch KL, nats recall@3 MRR 0 before training 0.400 0.500 0.400",
        "by the tuned retriever: plan.pdf, p. 5",
        "base LM with the tuned retriever's chunks",
    ):
        assert said in text, said
    assert "No retriever was tuned" not in text and "untuned encoder was kept" not in text
    assert page.count("▲<span") and "Held-out recall and MRR by epoch" in page


def test_a_retriever_that_did_not_gain_is_never_said_to(artifacts):
    add_retriever(
        artifacts, recall=(0.1, 0.0, 0.18), best_epoch=0, target={"entropy_nats": 2.07, "max_entropy_nats": 2.0794}
    )
    _, balance = report(artifacts)
    text = " ".join(" ".join(balance.texts).split())
    assert "gained" not in text.replace("What was gained is told", "")
    assert "shows no gain that one could claim: recall@3 0.50 → 0.60, a difference of +0.10 [0.00, 0.18]." in text
    assert text.count("the untuned encoder was kept") == text.count("target is nearly flat") == 2  # findings, training


@pytest.mark.parametrize(
    ("context", "said"),
    [("joined", "all in one prompt"), ("separate", "answers voted"), ("ensemble", "next-token probabilities mixed")],
)
def test_the_way_to_use_context_is_named_in_words(artifacts, context, said):
    _, balance = report(artifacts, retrieval={"context": context, "k": 2})
    text = " ".join(" ".join(balance.texts).split())
    assert f"context of a question 2 chunks {context}: " in text and said in text
    assert "No retriever was tuned in this run." in text


def test_what_the_training_contexts_held_comes_from_the_counters(artifacts):
    counters = {"n_without_gold": 14, "n_gold_left_out": 9, "n_with_distractors": 40}
    augment = LINEAGE[0] | {"stage": "augment", "counters": counters}
    _, balance = report(artifacts, lineage=[*LINEAGE, augment])
    text = " ".join(" ".join(balance.texts).split())
    assert "training questions without their gold chunk 14, 9 of them on purpose" in text
    assert "with the gold chunk among near misses 40" in text


def test_the_same_inputs_give_the_same_page(artifacts):
    assert report(artifacts)[0] == report(artifacts)[0]


def test_the_speed_of_training_comes_from_its_stage_s_counters(artifacts):
    assert "tokens/s" not in report(artifacts)[0]
    finetune_lm = LINEAGE[0] | {"stage": "finetune_lm", "counters": {"tokens_per_s": 1412.3}}
    assert "1,412 tokens/s" in report(artifacts, lineage=[*LINEAGE, finetune_lm])[0]


def test_weights_that_never_got_better_are_named(artifacts):
    training = json.loads((artifacts / "lm/training.json").read_text()) | {"best_step": 0, "n_dropped": 2}
    (artifacts / "lm/training.json").write_text(json.dumps(training))
    _, balance = report(artifacts)
    text = " ".join(" ".join(balance.texts).split())
    assert "step 0: the base model’s own weights" in text
    assert "2 did not fit even without context" in text


@pytest.mark.parametrize(
    ("n_unknown", "said"),
    [
        (0, "on 12 passages, never asked in training"),
        (5, "the chunks of 5 are not known, so training questions may stand on the same passages; the others on 7 "),
        (12, "the chunks of 12 are not known, so training questions may stand on the same passages"),
    ],
)
def test_passages_that_are_not_known_are_not_said_to_be_kept_apart(artifacts, n_unknown, said):
    file = artifacts / "val_questions/questions.jsonl"
    rows = [replace(row, chunk_ids=()) if i < n_unknown else row for i, row in enumerate(read_rows(file, Question))]
    write_rows(file, rows)
    _, balance = report(artifacts)
    text = " ".join(" ".join(balance.texts).split())
    assert said in text
    assert ("never asked in training" in text) == (n_unknown < 12)


def test_a_leaked_question_is_named(artifacts):
    summary = {"n_leaked": 2, "leaked": ["q03", "q15"], "leaked_in": {"q15": "plan.pdf#00009", "q03": "plan.pdf#00007"}}
    (artifacts / "questions/000000/summary.json").write_text(json.dumps(summary))
    _, balance = report(artifacts)
    text = " ".join(" ".join(balance.texts).split())
    assert "Leakage 1 of 12 held-out questions stand with their answer as a record" in text
    assert (
        "What is part 3? in plan.pdf#00007 , held out" in text or "What is part 3? in plan.pdf#00007, held out" in text
    )


def test_without_a_tuned_model_the_page_says_so(artifacts):
    questions = [Question("q00", "What?", "a valve", None, (), "file")]
    write(artifacts, [prediction(row, "base", "a valve", (), None) for row in questions])
    _, balance = report(artifacts, lm=False, lineage=[])
    text = " ".join(" ".join(balance.texts).split())
    for said in (
        "no tuned LM was evaluated",
        "No two arms were compared",
        "No language model was tuned",
        "the retriever cannot be judged",
        "Nothing was trained, so nothing was cut.",
        "left no record",
    ):
        assert said in text, said


def test_the_judge_and_the_money_have_sections_where_there_are_any(artifacts):
    _, balance = report(artifacts)
    assert "The judge" not in balance.texts and "What it cost" not in balance.texts
    path = artifacts / "results/results.json"
    results = json.loads(path.read_text())
    counts = {"n": 12, "n_wins": 7, "n_losses": 2, "n_ties": 2, "n_inconsistent": 1, "n_failed": 0}
    results["judge"] = {
        "model": HOSTILE,
        "provider": "openai",
        "repeated": {"n": 20, "n_equal": 17, "mean_abs_difference": 0.2, "n_failed": 0},
        "preference": counts | {"first_position_share": 0.5},
        "asked": {"correctness": {"n": 24, "n_failed": 2, "reasons": {"no score": 2}}},
    }
    ends = {"mean": 0.708333, "low": 0.51, "high": 0.9, "n": 12, "n_failed": 0}
    results["rows"].append({"arm": "lm", "split": "val", "metric": "preference"} | ends)
    path.write_text(json.dumps(results))
    tokens = {"n_prompt_tokens": 41234, "n_completion_tokens": 512, "n_training_tokens": 0}
    spent = {"gpt-x": {"n_calls": 44, **tokens, "usd": 0.0123}, HOSTILE: {"n_calls": 1, **tokens, "usd": None}}
    page, balance = report(artifacts, lineage=[LINEAGE[0] | {"spent": spent}])
    text = " ".join(" ".join(balance.texts).split())
    for said in (
        "The judge gave the same score to 17 of 20 answers when asked again; mean difference 0.2.",
        "prefers the tuned LM on 7",
        "0.71 [0.51, 0.90], where 0.5 is even",
        "no score: 2",
        "2 of 24 judgements of correctness failed",
        "$0.0123 and an unknown sum",
        "41,234",
    ):
        assert said in text, said
    assert "alert('x')</script>" not in page and balance.scripts == 1
    assert {address.removeprefix("#") for address in balance.addresses} <= set(re.findall(r'id="([\w-]+)"', page))
    assert {"#judge", "#cost"} <= set(balance.addresses)


def test_served_models_are_named_with_their_servers(artifacts):
    path = artifacts / "results/results.json"
    results = json.loads(path.read_text()) | {"judge": {"model": "gpt-x", "provider": "openai"}}
    path.write_text(json.dumps(results))
    training = {"engine": "openai", "model": HOSTILE, "job_id": "ftjob-1", "n_steps": 126, "n_truncated": 0}
    (artifacts / "lm/training.json").write_text(json.dumps(training | {"steps": [{"step": 12, "loss": 1.5}]}))
    models = {
        "lm": {"provider": "openai", "name": "gpt-mini", "base_url": "http://lm.example/v1"},
        "judge": {"provider": "openai", "name": "gpt-x", "base_url": "http://judge.example/v1"},
    }
    page, balance = report(artifacts, models=models, finetune_lm={"engine": "openai"})
    text = " ".join(" ".join(balance.texts).split())
    for said in (
        "language model gpt-mini at http://lm.example/v1",
        f"tuned language model {HOSTILE} at http://lm.example/v1",
        "judge gpt-x at http://judge.example/v1",
        "Judged by gpt-x at http://judge.example/v1, with",
        "optimizer steps 126",
        "training loss at the 1 of 126 steps that the service tells of",
    ):
        assert said in text, said
    assert "retriever all-minilm-l6-v2 judge gpt-x" in text  # it runs here
    assert "each step" not in text and "choose the checkpoint" not in text
    assert "alert('x')</script>" not in page


def test_a_local_run_names_no_server(artifacts):
    assert " at http" not in report(artifacts)[0]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"n_truncated": 0, "n_dropped": 0}, "None was cut: every training example fitted."),
        ({"n_truncated": 0, "n_dropped": 2}, "None was cut, but 2 were too long, and did not train."),
        ({"n_truncated": None, "n_dropped": None}, "Not known: the fine-tuning job was given"),
    ],
)
def test_what_did_not_fit_a_fine_tuning_api_is_said(artifacts, counts, said):
    (artifacts / "lm/training.json").write_text(json.dumps({"engine": "openai", "steps": []} | counts))
    _, balance = report(artifacts)
    text = " ".join(" ".join(balance.texts).split())
    assert said in text
    assert "Nothing was trained" not in text and "even without context" not in text


def test_marks_are_said_to_need_enough_questions_where_there_are_too_few(artifacts):
    assert "excludes zero, on at least 8 questions" not in report(artifacts)[0]
    path = artifacts / "results/results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps(results | {"pairs": [pair | {"n": 5} for pair in results["pairs"]]}))
    assert "excludes zero, on at least 8 questions" in report(artifacts)[0]


def test_answers_that_all_failed_are_shown_as_failed(artifacts):
    questions = [Question("q00", "What?", "a valve", None, (), "file")]
    failed = [
        dataclasses.replace(prediction(row, arm, "", (), None), finish_reason="error", error="the endpoint is down")
        for row in questions
        for arm in ("base", "lm")
    ]
    write(artifacts, failed)
    _, balance = report(artifacts)
    text = " ".join(" ".join(balance.texts).split())
    assert "no answer: the endpoint is down" in text
    assert "1 not measured" in text


def test_empty_predictions_still_give_a_page(artifacts):
    for name in ("predictions/predictions.jsonl", "scores/scores.jsonl"):
        (artifacts / name).write_text("")
    (artifacts / "results/results.json").write_text(json.dumps({"format": 1, "arms": [], "rows": [], "pairs": []}))
    (artifacts / "lm/training.json").write_text("{}")
    (artifacts / "questions/000000/dropped.jsonl").unlink()
    _, balance = report(artifacts)
    text = " ".join(" ".join(balance.texts).split())
    assert "No held-out question was answered" in text
    assert "None: every pair was kept." in text


def test_the_latency_has_a_section_where_it_was_measured(artifacts):
    _, balance = report(artifacts)
    assert "#latency" not in balance.addresses
    (artifacts / "latency").mkdir()
    (artifacts / "latency/latency.json").write_text(json.dumps(measured(warnings=[HOSTILE])))
    page, balance = report(artifacts)
    text = " ".join(" ".join(balance.texts).split())
    for said in (
        "A query takes 1.4 s (median), 1.3 times what this machine allows",
        "Where the time goes, with 1 client",
        "answer tokens a second, of all clients together",
        "RAG query radit 1 1.42 1.74 1.96 1.45 [1.35, 1.57] 0.43 22.1 0.69 1.06 1.3 12",
        "peak memory 1.42 GiB",
    ):
        assert said in text, said
    assert any(HOSTILE in found for found in balance.texts) and "<img" not in page
    assert {address.removeprefix("#") for address in balance.addresses} <= set(re.findall(r'id="([\w-]+)"', page))
