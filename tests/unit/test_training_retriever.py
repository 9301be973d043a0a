"""Tuning the retriever: a planted signal is learned, what is frozen stays to the bit, a killed run ends as another."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from radit_job.errors import InputError, StageFailed
from radit_job.model_ref import ModelRef
from radit_job.models.loading import model_folder, open_embedder, tuned_retriever_ref
from radit_job.models.sentence_encoder import HuggingFaceEmbedder
from radit_job.rag.retrieval import search
from radit_job.rag.vector_index import VectorIndex
from radit_job.records import CandidateScores
from radit_job.training import retriever as tuning
from radit_job.training.examples import hold_out
from radit_job.training.query_encoder import QueryEncoder
from radit_job.training.retriever import RetrieverSummary, tune_retriever
from radit_job.training.retriever_data import Candidates, check_rows, epoch_batches
from radit_job.training.retriever_settings import RetrieverTrainingSettings
from tests.unit.killed_training import count_steps, kill_at_step
from tests.unit.retriever_bench import (
    LOST_NATS,
    SUBJECTS,
    chunk_texts,
    folder_bytes,
    planted_rows,
    routed_encoder,
    tiny_encoder,
    write_index,
)

SETTINGS = RetrieverTrainingSettings(
    learning_rate=3e-3, epochs=3, patience=0, dtype="float32", recall_at=(1, 5), weight_decay=0.0
)


class Bench:
    """An encoder, an index made with it, and the planted questions, of which a quarter is held out."""

    def __init__(self, folder: Path, encoder: Path, subjects=SUBJECTS) -> None:
        torch.set_num_threads(1)
        self.encoder, self.embeddings = encoder, folder / "embeddings"
        embedder = HuggingFaceEmbedder.open(encoder, dtype="float32")
        self.index = write_index(self.embeddings, embedder, chunk_texts(subjects))
        self.rows = planted_rows(embedder, self.index, subjects=subjects)
        self.train, self.dev = hold_out(self.rows, 0.25, seed=7)

    def tune(self, at: Path, settings=SETTINGS, *, train=None, dev=None) -> RetrieverSummary:
        rows = [self.train if train is None else train, self.dev if dev is None else dev]
        return tune_retriever(self.encoder, *rows, self.index, settings, out=at / "retriever", scratch=at / "scratch")


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    folder = tmp_path_factory.mktemp("retriever")
    return Bench(folder, tiny_encoder(folder), SUBJECTS[:24])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def with_scores(row: CandidateScores, liked: str) -> CandidateScores:
    """The same question, scored by an LM that likes chunks of another kind."""
    nats = tuple(-0.1 if i == f"{liked}#{row.group}" else LOST_NATS for i in row.chunk_ids)
    return replace(row, log_probability_nats=nats)


def warnings_of(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(tuning.observe, "warn", lambda message, **_: said.append(message))
    return said


def test_a_planted_signal_is_learned_and_nothing_but_the_query_encoder_moves(tmp_path):
    base = model_folder(ModelRef("packaged", "all-minilm-l6-v2"))
    bench = Bench(tmp_path, base)
    before = [folder_bytes(folder) for folder in (base, bench.embeddings)]
    settings = replace(SETTINGS, learning_rate=1e-4, epochs=2)
    summary = bench.tune(tmp_path, settings)

    untuned, tuned = summary.before, summary.after
    assert untuned["dev_recall"]["1"] < 0.1 and tuned["dev_recall"]["1"] > 0.9
    assert tuned["dev_n_gold"] == len(bench.dev) == 45
    assert tuned["dev_kl_nats"] < 0.1 * untuned["dev_kl_nats"]
    assert not {row.group for row in bench.train} & {row.group for row in bench.dev}

    assert [folder_bytes(folder) for folder in (base, bench.embeddings)] == before
    old, new = weights(base), weights(tmp_path / "retriever")
    assert old.keys() - new.keys() <= {"embeddings.position_ids"}
    for name, tensor in new.items():
        assert torch.equal(tensor, old[name]) == name.startswith("pooler."), name

    queries = open_embedder(tuned_retriever_ref(tmp_path / "retriever", ModelRef("packaged", "x", dtype="float32")))
    gold = bench.index.gold_rows(row.gold_chunk_ids for row in bench.dev)
    documents = VectorIndex.open(bench.embeddings).vectors
    ranks = search(documents, queries.embed_queries([row.question for row in bench.dev]), k=1, gold_rows=gold)
    assert np.mean(np.array(ranks.gold_ranks) == 1) == pytest.approx(tuned["dev_recall"]["1"], abs=1e-6)


def test_each_step_tells_its_loss_and_entropies(bench, tmp_path):
    summary = bench.tune(tmp_path)
    assert summary.n_train < len(bench.train), "questions without the ledger among their candidates are flat"
    assert summary.n_train + summary.target["n_flat"] == len(bench.train)
    assert len(summary.steps) == 3 * -(-summary.n_train // 16)
    keys = {"step", "phase", "loss", "kl_nats", "target_entropy_nats", "retriever_entropy_nats", "learning_rate"}
    for i, row in enumerate(summary.steps):
        assert row.keys() == keys and row["step"] == i + 1 and row["phase"] == "lsr"
        assert row["loss"] == row["kl_nats"] > 0 and 0 < row["retriever_entropy_nats"] < np.log(8)
        assert row["target_entropy_nats"] < 0.1, "the LM is certain"
    assert [row["phase"] for row in summary.epochs] == ["untuned", "lsr", "lsr", "lsr"]
    assert summary.epochs[0].keys() == {"epoch", "phase", "dev_kl_nats", "dev_recall", "dev_mrr", "dev_n_gold"}
    assert summary.after["dev_kl_nats"] == min(row["dev_kl_nats"] for row in summary.epochs)
    assert summary.steps[-1]["kl_nats"] < summary.steps[0]["kl_nats"]
    assert summary.target["max_entropy_nats"] == pytest.approx(np.log(8), abs=1e-6)


def test_reverse_and_forward_end_with_different_weights_and_both_learn(bench, tmp_path):
    ended = {}
    for divergence in ("reverse", "forward"):
        summary = bench.tune(tmp_path / divergence, replace(SETTINGS, divergence=divergence))
        assert summary.after["dev_kl_nats"] < summary.before["dev_kl_nats"]
        ended[divergence] = weights(tmp_path / divergence / "retriever")
    assert any(not torch.equal(tensor, ended["forward"][name]) for name, tensor in ended["reverse"].items())


def test_the_warm_start_comes_first_and_brings_the_gold_chunk_up(bench, tmp_path):
    summary = bench.tune(tmp_path, replace(SETTINGS, warm_start_epochs=6, epochs=1))
    assert [row["phase"] for row in summary.epochs] == ["untuned", *["contrastive"] * 6, "lsr"]
    warm = [row for row in summary.steps if row["phase"] == "contrastive"]
    assert len(warm) == 6 * -(-len(bench.train) // 16), "a known gold chunk teaches where the target is flat, too"
    assert all(row["loss"] != row["kl_nats"] for row in warm) and warm[-1]["loss"] < warm[0]["loss"]
    assert summary.epochs[6]["dev_mrr"] > 1.2 * summary.epochs[0]["dev_mrr"]


def test_the_contrastive_loss_is_added_by_its_weight(bench, tmp_path):
    first = {}
    for weight in (0.0, 1.0, 3.0):
        first[weight] = bench.tune(
            tmp_path / str(weight), replace(SETTINGS, epochs=1, contrastive_weight=weight)
        ).steps[0]
        assert first[weight]["kl_nats"] == first[0.0]["kl_nats"]
    extra = [first[weight]["loss"] - first[0.0]["loss"] for weight in (1.0, 3.0)]
    assert extra[0] > 0.1 and extra[1] == pytest.approx(3 * extra[0], abs=1e-4)


def test_positives_and_negatives_by_hand(bench):
    ids = bench.index.chunk_ids

    def row(gold, nats, candidates=(0, 1, 2)) -> CandidateScores:
        names = tuple(ids[i] for i in candidates)
        return CandidateScores("q", "?", "g", tuple(ids[i] for i in gold), names, (0.5,) * 3, tuple(nats), 1)

    rows = [
        row([1, 2, 9], [-1, -9, -5]),  # two gold candidates: the one that the LM likes better
        row([9], [-1, -9, -5]),  # gold elsewhere
        row([], [-7, -1, -5], (3, 4, 0)),  # gold unknown: what the LM likes best
    ]
    found = Candidates.of(rows, bench.index, likelihood="per_token", temperature=0.1)
    used = [0, 1, 2, 3, 4, 9]
    assert [used[place] for place in found.positives] == [2, 9, 4]
    np.testing.assert_array_equal(found.vectors.numpy(), bench.index.vectors.take(np.array(used)))
    together, wrong = found.negatives([0, 1, 2])
    assert [used[place] for place in together] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(wrong, [[1, 0, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])


def test_a_question_is_encoded_as_encode_query_does_with_its_prompt(tmp_path):
    folder = tiny_encoder(tmp_path, prompts={"query": "search the ledger for this: ", "document": "text: "})
    encoder = QueryEncoder.open(folder, torch.float32)
    texts = ["Where is it?", "A longer question about Madrid and Oslo, is it not?"]
    model = SentenceTransformer(str(folder), device="cpu")
    with torch.no_grad():
        ours = encoder.vectors(texts).numpy()
    np.testing.assert_allclose(ours, model.encode_query(texts), atol=1e-6)
    np.testing.assert_allclose(encoder.embed(texts), ours, atol=1e-6)
    assert abs(ours - model.encode(texts, prompt="")).max() > 1e-3
    encoder.save(tmp_path / "saved")
    assert SentenceTransformer(str(tmp_path / "saved"), device="cpu").prompts["query"] == "search the ledger for this: "


def test_behind_a_router_the_document_encoder_stays_to_the_bit(tmp_path):
    bench = Bench(tmp_path, routed_encoder(tmp_path), SUBJECTS[:12])
    summary = bench.tune(tmp_path, replace(SETTINGS, warm_start_epochs=1, epochs=1), dev=[])
    assert summary.n_trainable_parameters < 0.51 * summary.n_parameters
    old, new = (SentenceTransformer(str(at), device="cpu") for at in (bench.encoder, tmp_path / "retriever"))
    texts = [row.question for row in bench.rows]
    np.testing.assert_array_equal(old.encode_document(texts), new.encode_document(texts))
    assert abs(old.encode_query(texts) - new.encode_query(texts)).max() > 1e-3
    tensors, moved = dict(old.state_dict()), set()
    for name, tensor in new.state_dict().items():
        if not torch.equal(tensor, tensors[name]):
            moved.add(name.split(".sub_modules.")[1].split(".")[0])
    assert moved == {"query"}


@pytest.mark.parametrize(("killed_at", "n_kept"), [(1, 0), (5, 4), (9, 7)])  # an epoch has 4 steps, then 3 each
def test_a_killed_run_goes_on_and_ends_bit_identical(bench, tmp_path, killed_at, n_kept):
    settings = replace(SETTINGS, warm_start_epochs=1, epochs=3, contrastive_weight=0.1)
    whole = bench.tune(tmp_path / "whole", settings)
    kill_at_step(killed_at, lambda: bench.tune(tmp_path / "killed", settings))
    resumed = []
    n_again = count_steps(lambda: resumed.append(bench.tune(tmp_path / "killed", settings)))
    assert len(whole.steps) == 13 and n_again == 13 - n_kept, "an epoch that is kept must not be done again"
    assert folder_bytes(tmp_path / "killed/retriever") == folder_bytes(tmp_path / "whole/retriever")
    assert resumed[0].to_json() == whole.to_json()


def test_equal_training_is_an_equal_artifact_and_another_seed_another_one(bench, tmp_path):
    first, second = (bench.tune(tmp_path / name, replace(SETTINGS, epochs=1)) for name in "ab")
    other = bench.tune(tmp_path / "c", replace(SETTINGS, epochs=1, seed=8))
    assert folder_bytes(tmp_path / "a/retriever") == folder_bytes(tmp_path / "b/retriever")
    assert first.training_s != second.training_s
    assert json.dumps(first.to_json()) == json.dumps(second.to_json()) != json.dumps(other.to_json())
    assert folder_bytes(tmp_path / "a/retriever") != folder_bytes(tmp_path / "c/retriever")


def test_a_checkpoint_of_other_settings_or_scores_is_not_taken(bench, tmp_path):
    short = replace(SETTINGS, epochs=1)
    bench.tune(tmp_path, short)
    once = bench.tune(tmp_path, replace(short, lm_temperature=0.2))
    assert once.epochs != bench.tune(tmp_path / "fresh", short).epochs
    rows = [replace(row, n_answer_tokens=9) for row in bench.train]
    fresh = bench.tune(tmp_path / "other", short, train=rows)
    assert bench.tune(tmp_path, short, train=rows).to_json() == fresh.to_json()


def test_targets_that_are_all_flat_change_nothing_and_are_said_loudly(bench, tmp_path, monkeypatch):
    said = warnings_of(monkeypatch)
    flat = [replace(row, log_probability_nats=(-3.0,) * 8) for row in bench.rows]
    train, dev = hold_out(flat, 0.25, seed=7)
    settings = replace(SETTINGS, warm_start_epochs=1, contrastive_weight=1.0)
    summary = bench.tune(tmp_path, settings, train=train, dev=dev)
    assert (summary.best_epoch, summary.steps, summary.n_train) == (0, [], 0)
    assert summary.target["entropy_nats"] == summary.target["max_entropy_nats"]
    [only] = summary.epochs
    assert only["dev_kl_nats"] is None and only["dev_mrr"] > 0
    assert len(said) == 1 and "nothing to learn" in said[0] and "lm_temperature" in said[0]
    assert weights(tmp_path / "retriever").keys() == weights(bench.encoder).keys()
    assert all(torch.equal(t, weights(bench.encoder)[n]) for n, t in weights(tmp_path / "retriever").items())


def test_if_the_held_out_kl_never_falls_the_untuned_weights_are_kept_and_that_is_said(bench, tmp_path, monkeypatch):
    said = warnings_of(monkeypatch)
    learned = [with_scores(row, "ledger") for row in bench.train]
    wanted = [with_scores(row, "summary") for row in bench.dev]
    summary = bench.tune(tmp_path, replace(SETTINGS, epochs=8, patience=2), train=learned, dev=wanted)
    assert summary.best_epoch == 0 and summary.stopped_early
    assert [row["epoch"] for row in summary.epochs] == [0, 1, 2]
    assert summary.after == summary.before and summary.steps[-1]["kl_nats"] < summary.steps[0]["kl_nats"]
    assert len(said) == 1 and "the untuned encoder is kept" in said[0]
    assert all(torch.equal(t, weights(bench.encoder)[n]) for n, t in weights(tmp_path / "retriever").items())


def test_the_best_epoch_is_kept_when_later_ones_are_worse(bench, tmp_path):
    summary = bench.tune(tmp_path, replace(SETTINGS, learning_rate=5e-2, epochs=6))
    best = min(summary.epochs, key=lambda row: row["dev_kl_nats"])["epoch"]
    assert summary.best_epoch == best
    stopped = bench.tune(tmp_path / "short", replace(SETTINGS, learning_rate=5e-2, epochs=6, patience=1))
    assert stopped.epochs == summary.epochs[: len(stopped.epochs)]


def test_without_held_out_questions_the_last_weights_are_kept(bench, tmp_path):
    summary = bench.tune(tmp_path, replace(SETTINGS, epochs=1), dev=[])
    assert (summary.best_epoch, summary.epochs, summary.after, summary.n_dev) == (None, [], None, 0)
    assert any(not torch.equal(t, weights(bench.encoder)[n]) for n, t in weights(tmp_path / "retriever").items())


def test_held_out_questions_without_a_known_gold_chunk_have_no_recall(bench, tmp_path):
    dev = [replace(row, gold_chunk_ids=()) for row in bench.dev]
    summary = bench.tune(tmp_path, replace(SETTINGS, epochs=1), dev=dev)
    assert all(row["dev_recall"] == {} and row["dev_mrr"] is None for row in summary.epochs)
    assert summary.best_epoch == 1


def test_training_that_diverges_is_an_error_and_writes_no_model(bench, tmp_path):
    with pytest.raises(StageFailed, match="diverged at") as caught:
        bench.tune(tmp_path, replace(SETTINGS, learning_rate=1e30))
    assert "learning_rate" in caught.value.todo
    assert not (tmp_path / "retriever").exists()


def test_in_bfloat16_the_weights_stay_float32_and_learn(bench, tmp_path):
    summary = bench.tune(tmp_path, replace(SETTINGS, dtype="bfloat16"))
    assert summary.dtype == "bfloat16" and summary.after["dev_kl_nats"] < summary.before["dev_kl_nats"]
    assert {tensor.dtype for tensor in weights(tmp_path / "retriever").values()} == {torch.float32}


def test_each_epoch_takes_every_question_once_in_an_order_of_seed_and_epoch():
    first, second = (epoch_batches(range(50), 8, seed=3, epoch=epoch) for epoch in (1, 2))
    assert first == epoch_batches(range(50), 8, seed=3, epoch=1) != second
    assert all(sorted(row for batch in found for row in batch) == list(range(50)) for found in (first, second))
    assert first != epoch_batches(range(50), 8, seed=4, epoch=1)


def test_what_cannot_teach_is_an_input_error(bench):
    row = bench.rows[0]
    one = replace(row, chunk_ids=row.chunk_ids[:1], log_probability_nats=row.log_probability_nats[:1])
    for rows, said in (([], "0 scored questions"), ([row], "1 scored questions"), ([one, one], "one candidate")):
        with pytest.raises(InputError, match=said):
            check_rows(rows, "lm_scores")
    with pytest.raises(InputError, match="same number"):
        check_rows([row, one], "lm_scores")
    strange = replace(row, chunk_ids=("nowhere", *row.chunk_ids[1:]))
    with pytest.raises(InputError, match="nowhere"):
        Candidates.of([row, strange], bench.index, likelihood="per_token", temperature=0.1)


def test_the_settings_are_those_of_the_configuration():
    from radit_job.config.finetuning import FinetuneRetriever

    known = asdict(RetrieverTrainingSettings())
    for name, value in FinetuneRetriever().model_dump().items():
        assert known[name] == value or (name == "retriever_temperature" and value is None)  # the stage fits it
