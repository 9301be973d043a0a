"""The stage on real files: what it writes opens with the ecosystem's own loaders."""

import json

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from radit_job.config.models import Model
from radit_job.config.schema import FinetuneLM
from radit_job.config.slices import FinetuneLMSlice
from radit_job.errors import InputError
from radit_job.records import Example, Message, write_rows
from radit_job.stages.finetune_lm import run
from radit_job.training.examples import hold_out


def example(i: int) -> Example:
    question = f"Where is box {i}?"
    messages = (
        Message("system", "Answer."),
        Message("user", f"Box {i} is in room {i % 5}.\nQuery: {question}"),
        Message("assistant", f"In room {i % 5}."),
    )
    return Example(f"q{i}", question, f"chunk{i // 2}", (f"chunk{i // 2}",), (0.5,), True, messages)


ROWS = [example(i) for i in range(20)]


def slice_of(folder, **settings) -> FinetuneLMSlice:
    lm = Model(provider="huggingface", name=str(folder), dtype="float32")
    return FinetuneLMSlice(
        seed=7, lm=lm.model_dump(), finetune_lm=FinetuneLM(epochs=2, learning_rate=1e-2, **settings).model_dump()
    )


def test_it_writes_models_card_and_curve(tiny_lm_folder, tmp_path):
    for name in ("examples", "out", "scratch"):
        (tmp_path / name).mkdir()
    write_rows(tmp_path / "examples/examples.jsonl", ROWS)
    counters = run(
        slice_of(tiny_lm_folder, dev_share=0.2),
        examples=tmp_path / "examples",
        out=tmp_path / "out",
        scratch=tmp_path / "scratch",
    )
    lm = tmp_path / "out/lm"
    assert {path.name for path in lm.iterdir()} == {"adapter", "merged", "README.md", "training.json"}
    assert counters["n_train"] == 16 and counters["n_dev"] == 4 and counters["n_steps"] == 8
    assert counters["tokens_per_s"] > 0 and counters["training_s"] > 0
    assert counters["dev_loss_after"] < counters["dev_loss_before"]

    model = AutoModelForCausalLM.from_pretrained(lm / "merged")
    AutoTokenizer.from_pretrained(lm / "merged")
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_lm_folder), lm / "adapter")
    assert model.config.vocab_size == 49152

    training = json.loads((lm / "training.json").read_text())
    assert [row["step"] for row in training["steps"]] == list(range(1, 9))
    assert [row["step"] for row in training["evaluations"]] == [0, 4, 8]
    assert training["steps"][0].keys() == {"step", "loss", "learning_rate", "tokens"}
    assert training["n_trainable_parameters"] < training["n_parameters"] / 10
    card = (lm / "README.md").read_text()
    for said in (str(tiny_lm_folder), "sha256:", "16 examples (20 questions and 10 source passages", "(kept)"):
        assert said in card
    for clock in ("training_s", "tokens_per_s", "tokens/s"):
        assert clock not in card and clock not in (lm / "training.json").read_text()
    config = json.loads((lm / "adapter/adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])


def test_held_out_groups_are_whole_and_drawn_by_the_seed():
    train, dev = hold_out(ROWS, 0.2, seed=7)
    assert len(train) + len(dev) == 20 and len({row.group for row in dev}) == 2
    assert not {row.group for row in train} & {row.group for row in dev}
    assert (train, dev) == hold_out(list(ROWS), 0.2, seed=7)
    assert any(hold_out(ROWS, 0.2, seed=seed)[1] != dev for seed in range(5))
    assert hold_out(ROWS, 0.0, seed=7)[1] == []
    assert len({row.group for row in hold_out(ROWS, 0.01, seed=7)[1]}) == 1
    assert hold_out(ROWS[:2], 0.5, seed=7) == (ROWS[:2], []), "a single group trains"


def test_no_examples_is_an_input_error(tiny_lm_folder, tmp_path):
    write_rows(tmp_path / "examples.jsonl", [])
    with pytest.raises(InputError, match="no training examples"):
        run(slice_of(tiny_lm_folder), examples=tmp_path, out=tmp_path, scratch=tmp_path)
