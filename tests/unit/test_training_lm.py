"""Training trains: what shall move moves, what is frozen stays, and a killed run ends as an undisturbed one."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from radit_job.errors import InputError, StageFailed
from radit_job.model_ref import ModelRef
from radit_job.models.loading import open_generator
from radit_job.records import Example, Message
from radit_job.training import loop
from radit_job.training.batches import Pass, collate, epoch_batches
from radit_job.training.checkpoint import Checkpoints
from radit_job.training.examples import GAP, EncodedExample, encode_examples, fit
from radit_job.training.lm import tune
from radit_job.training.lowrank import use_merged_products
from radit_job.training.settings import LMTrainingSettings, learning_rate_at
from tests.unit.killed_training import count_steps, kill_at_step

COLOURS = ["red", "green", "blue", "black", "white", "brown"]
SETTINGS = LMTrainingSettings(epochs=6, learning_rate=1e-2, batch_size=4, patience=0, lora_rank=4, dtype="float32")


def example(question: str, text: str, answer: str) -> Example:
    messages = (Message("system", "Answer."), Message("user", text), Message("assistant", answer))
    return Example("q", question, "group", (), (), None, messages)


def box(i: int) -> Example:
    question, colour = f"What colour is box {i}?", COLOURS[i % 6]
    return example(question, f"The box {i} is {colour}.\nQuery: {question}", f"It is {colour}.")


TRAIN = [box(i) for i in range(18)]
DEV = [box(i) for i in range(18, 24)]


def run(folder: Path, at: Path, settings: LMTrainingSettings = SETTINGS, dev=DEV):
    torch.set_num_threads(1)
    return tune(folder, TRAIN, dev, settings, out=at / "lm", scratch=at / "scratch", base_name="tiny")


def test_lora_moves_the_adapter_only_and_the_held_out_loss_falls(tiny_lm_folder, tmp_path):
    summary = run(tiny_lm_folder, tmp_path)
    assert summary.dev_loss_after < 0.7 * summary.dev_loss_before
    assert summary.best_step == min(summary.evaluations, key=lambda row: row["dev_loss"])["step"]
    adapter = load_file(tmp_path / "lm/adapter/adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in adapter.items() if "lora_B" in name), (
        "a B that is still zero never learned"
    )
    base, merged = load_file(tiny_lm_folder / "model.safetensors"), load_file(tmp_path / "lm/merged/model.safetensors")
    for name, tensor in base.items():
        assert torch.equal(tensor, merged[name]) == ("proj" not in name), name


def test_the_adapter_on_the_base_is_the_merged_model_and_has_the_loss_that_was_measured(tiny_lm_folder, tmp_path):
    summary = run(tiny_lm_folder, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_lm_folder)
    adapted = PeftModel.from_pretrained(base, tmp_path / "lm/adapter")
    assert adapted.peft_config["default"].base_model_name_or_path == "tiny"
    tuned = open_generator(ModelRef("huggingface", str(tmp_path / "lm/merged"), dtype="float32"))
    ids = torch.tensor([tuned.chat.prompt_ids(DEV[0].messages[:-1])])
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, tuned.model(ids).logits, atol=1e-4, rtol=1e-4)
    scores = tuned.score([row.messages[:-1] for row in DEV], [row.messages[-1].content for row in DEV])
    nats = -sum(score.log_probability_nats for score in scores) / sum(score.n_tokens for score in scores)
    assert nats == pytest.approx(summary.dev_loss_after, abs=1e-4)


def test_full_tuning_moves_every_weight(tiny_lm_folder, tmp_path):
    settings = LMTrainingSettings(
        method="full", epochs=4, learning_rate=3e-3, batch_size=4, patience=0, dtype="float32"
    )
    summary = run(tiny_lm_folder, tmp_path, settings)
    assert summary.dev_loss_after < 0.7 * summary.dev_loss_before
    base, tuned = load_file(tiny_lm_folder / "model.safetensors"), load_file(tmp_path / "lm/merged/model.safetensors")
    assert base.keys() == tuned.keys()
    assert not any(torch.equal(tensor, tuned[name]) for name, tensor in base.items())
    assert not (tmp_path / "lm/adapter").exists()


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("killed_at", [2, 7])
def test_a_killed_run_goes_on_and_ends_bit_identical(tiny_lm_folder, tmp_path, method, killed_at):
    settings = LMTrainingSettings(
        method=method, epochs=2, learning_rate=5e-3, batch_size=4, dtype="float32", checkpoint_interval_s=1e-9
    )
    run(tiny_lm_folder, tmp_path / "whole", settings)
    kill_at_step(killed_at, lambda: run(tiny_lm_folder, tmp_path / "killed", settings))
    n_again = count_steps(lambda: run(tiny_lm_folder, tmp_path / "killed", settings))
    assert n_again == 10 - (killed_at - 1), "steps behind the checkpoint must not be done again"
    for file in (tmp_path / "whole/lm").rglob("*.safetensors"):
        other = load_file(tmp_path / "killed" / file.relative_to(tmp_path / "whole"))
        assert all(torch.equal(tensor, other[name]) for name, tensor in load_file(file).items())


def test_a_checkpoint_of_other_settings_is_not_taken(tiny_lm_folder, tmp_path):
    run(tiny_lm_folder, tmp_path, LMTrainingSettings(epochs=1, batch_size=4, dtype="float32"))
    summary = run(tiny_lm_folder, tmp_path, LMTrainingSettings(epochs=1, batch_size=6, dtype="float32"))
    assert [row["step"] for row in summary.steps] == [1, 2, 3]


def test_a_step_in_many_passes_equals_one_padded_pass(tiny_lm_folder, tmp_path, monkeypatch):
    rows = [example("Which?", f"Box {i}. Which?", "It is red. So " + "it is " * (7 * (i % 4))) for i in range(18)]

    def losses(at: Path, **settings) -> list[float]:
        done = tune(
            tiny_lm_folder,
            rows,
            [],
            LMTrainingSettings(epochs=2, learning_rate=1e-2, dtype="float32", **settings),
            out=at / "lm",
            scratch=at / "scratch",
            base_name="tiny",
        )
        return [row["loss"] for row in done.steps]

    monkeypatch.setattr(
        loop, "epoch_batches", lambda rows, size, *_: [[*range(i, i + size)] for i in range(0, 18, size)]
    )
    in_parts = losses(tmp_path / "a", batch_size=2, accumulation_steps=3)  # on a CPU: six passes of one row
    monkeypatch.setattr(loop.TrainingLoop, "_passes", lambda self, examples: [Pass(examples, True, len(examples))])
    assert in_parts == pytest.approx(losses(tmp_path / "b", batch_size=6), abs=2e-3)


def test_training_stops_when_the_held_out_loss_rises_and_keeps_the_best(tiny_lm_folder, tmp_path):
    settings = LMTrainingSettings(epochs=20, learning_rate=0.5, batch_size=4, patience=2, dtype="float32")
    summary = run(tiny_lm_folder, tmp_path, settings)
    assert summary.stopped_early and len(summary.steps) < 100
    after_best = [row for row in summary.evaluations if row["step"] > summary.best_step]
    assert len(after_best) == 2


def test_without_held_out_examples_the_last_weights_are_kept(tiny_lm_folder, tmp_path):
    summary = run(tiny_lm_folder, tmp_path, LMTrainingSettings(epochs=1, batch_size=4, dtype="float32"), dev=[])
    assert (summary.best_step, summary.evaluations, summary.dev_loss_after) == (None, [], None)
    merged = load_file(tmp_path / "lm/merged/model.safetensors")
    base = load_file(tiny_lm_folder / "model.safetensors")
    assert any(not torch.equal(tensor, merged[name]) for name, tensor in base.items())


def test_merged_products_have_pefts_outputs_and_gradients(tiny_lm_folder):
    def loss_and_gradients(merged: bool):
        torch.manual_seed(1)
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_lm_folder), config)
        adapters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        products = use_merged_products(model) if merged else []
        assert len(products) == (14 if merged else 0)
        with torch.no_grad():  # B starts at zero, where half of the gradients are zero too
            for p in adapters.values():
                p.normal_(std=0.1)
        for product in products:
            product.refresh()
        ids = torch.arange(24).view(2, 12)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return loss, {name: p.grad for name, p in adapters.items()}

    (fast_loss, fast), (plain_loss, plain) = loss_and_gradients(True), loss_and_gradients(False)
    torch.testing.assert_close(fast_loss, plain_loss)
    for name, gradient in plain.items():
        torch.testing.assert_close(fast[name], gradient, atol=1e-4, rtol=1e-3)


def test_padding_changes_no_loss(tiny_lm_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_lm_folder)
    examples = [EncodedExample(tuple(range(5, 5 + n)), n - 3) for n in (7, 12, 20)]

    def nats(rows) -> float:
        batch = collate(rows, torch.device("cpu"))
        with torch.no_grad():
            logits = model(input_ids=batch.input_ids, logits_to_keep=batch.positions).logits[batch.rows, batch.columns]
        return float(torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum"))

    assert nats(examples) == pytest.approx(sum(nats([example]) for example in examples), abs=1e-3)


def test_each_epoch_takes_every_example_once_in_an_order_of_its_own():
    examples = [EncodedExample((1,) * (10 + i % 7), 5) for i in range(50)]
    first, second = (epoch_batches(examples, 4, seed=3, epoch=epoch) for epoch in (0, 1))
    assert first == epoch_batches(examples, 4, seed=3, epoch=0) != second
    for batches in (first, second):
        assert sorted(row for batch in batches for row in batch) == list(range(50))
    widths = [{len(examples[row].ids) for row in batch} for batch in first]
    assert sum(len(found) <= 2 for found in widths) > len(widths) / 2, "batches must hold similar lengths"


def test_learning_rate_rises_and_falls():
    rates = [learning_rate_at(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0 and rates[99] < 0.001
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("question_first", [True, False])
def test_truncation_cuts_context_and_keeps_question_and_answer(tiny_lm_folder, question_first):
    chat = open_generator(ModelRef("huggingface", str(tiny_lm_folder))).chat
    context, question = "".join(f"Fact {i} is true. " for i in range(300)), "Query: What does the LSR loss train?"
    text = f"{question}\n{context}" if question_first else f"{context}\n{question}"
    row = example(question, text, "The query encoder.")
    cut = fit(chat, row, 400)
    assert question in cut[1].content and GAP in cut[1].content
    assert (cut[0], cut[2]) == (row.messages[0], row.messages[2])
    assert cut[1].content.partition(GAP)[0] == text[: len(cut[1].content.partition(GAP)[0])], "characters must survive"
    encoded = encode_examples(chat, [row, TRAIN[0]], 400)
    assert (encoded.n_truncated, encoded.n_dropped) == (1, 0)
    assert 380 < len(encoded.examples[0].ids) <= 400
    assert encoded.examples[0].ids[-encoded.examples[0].n_answer_tokens :] == tuple(
        chat.answer_ids("The query encoder.")
    )


def test_an_example_whose_answer_alone_is_too_long_is_dropped_or_an_error(tiny_lm_folder):
    chat = open_generator(ModelRef("huggingface", str(tiny_lm_folder))).chat
    long = example("Why?", "Why? " * 100, "because " * 300)
    assert encode_examples(chat, [long, TRAIN[0]], 256).n_dropped == 1
    with pytest.raises(InputError, match="256 tokens"):
        encode_examples(chat, [long], 256)


@pytest.mark.parametrize("question_first", [True, False])
def test_an_example_is_dropped_rather_than_asked_with_half_a_question(tiny_lm_folder, question_first):
    chat = open_generator(ModelRef("huggingface", str(tiny_lm_folder))).chat
    question = "What is " + " and ".join(f"fact {i}" for i in range(60)) + "?"
    parts = [question, "".join(f"Fact {i} is true. " for i in range(300))]
    row = example(question, "\n".join(parts if question_first else parts[::-1]), "Nothing.")
    assert encode_examples(chat, [row, TRAIN[0]], 400).n_dropped == 1
    assert encode_examples(chat, [row, TRAIN[0]], 1000).n_truncated == 1


def test_examples_are_cut_to_what_the_model_reads(tiny_lm_folder, tmp_path):
    long = example("Why?", "Fact. " * 2000 + "Why?", "So.")
    settings = LMTrainingSettings(epochs=1, batch_size=1, max_tokens=4096, dtype="float32")
    done = tune(tiny_lm_folder, [long], [], settings, out=tmp_path / "lm", scratch=tmp_path / "s", base_name="tiny")
    assert done.n_truncated == 1 and 1000 < done.n_tokens <= 1024


@pytest.mark.parametrize("dev", [DEV, []])
def test_training_that_diverges_is_an_error_and_writes_no_model(tiny_lm_folder, tmp_path, dev):
    settings = LMTrainingSettings(epochs=1, learning_rate=1e30, batch_size=4, dtype="float32")
    with pytest.raises(StageFailed, match="diverged at step") as caught:
        run(tiny_lm_folder, tmp_path, settings, dev=dev)
    assert "learning_rate" in caught.value.todo
    assert not (tmp_path / "lm").exists()


def test_adapters_on_a_bfloat16_base_are_rounded_once_when_they_are_merged(tiny_lm_folder, tmp_path):
    settings = LMTrainingSettings(epochs=1, learning_rate=1e-2, batch_size=4, lora_rank=4, dtype="bfloat16")
    run(tiny_lm_folder, tmp_path, settings, dev=[])
    base = AutoModelForCausalLM.from_pretrained(tiny_lm_folder, dtype=torch.bfloat16).to(torch.float32)
    exact = PeftModel.from_pretrained(base, tmp_path / "lm/adapter").merge_and_unload().state_dict()
    merged = load_file(tmp_path / "lm/merged/model.safetensors")
    for name, tensor in merged.items():
        assert torch.equal(tensor, exact[name].to(torch.bfloat16)), name


def test_equal_training_is_an_equal_record_whatever_time_it_took(tiny_lm_folder, tmp_path):
    settings = LMTrainingSettings(epochs=1, batch_size=6, dtype="float32")
    first, second = (run(tiny_lm_folder, tmp_path / name, settings) for name in "ab")
    assert first.training_s != second.training_s
    assert first.to_json() == second.to_json()


def test_a_checkpoint_is_taken_by_a_run_that_only_names_its_dtype_or_interval_otherwise(tiny_lm_folder, tmp_path):
    def steps_done(**changes) -> int:
        done = []
        plain = torch.optim.AdamW.step
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", lambda *a: done.append(1) or plain(*a))
            patch.setattr("radit_job.models.precision.bfloat16_pays", lambda kind: False)
            run(tiny_lm_folder, tmp_path, LMTrainingSettings(epochs=1, batch_size=6, **changes))
        return len(done)

    assert steps_done(dtype="float32") == 3
    assert steps_done(dtype="auto", checkpoint_interval_s=5.0) == 0
    assert steps_done(dtype="float32", seed=8) == 3


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_an_unreadable_checkpoint_counts_as_none(tmp_path, monkeypatch, file):
    warnings = []
    monkeypatch.setattr("radit_job.training.checkpoint.observe.warn", lambda message, **_: warnings.append(message))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"a": torch.ones(2)}, {"fingerprint": "x"})
    assert checkpoints.load()[1]["step"] == 3 and not warnings
    path = tmp_path / "step-00000003" / file
    path.write_bytes(path.read_bytes()[:-5])
    assert checkpoints.load() is None
    assert len(warnings) == 1
