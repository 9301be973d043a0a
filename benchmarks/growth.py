"""How the cost of each stage grows: `python benchmarks/growth.py [--chunks 500] [--questions 40] [--steps 1 4 16]`.

Real runs of `radit run`, first with a corpus of 1, 4 and 16 times so many chunks, then with 1, 4 and 16 times so many
questions. For each stage the seconds and the peak memory of its result.json, and between neighbours the exponent: the
time grew as size ** exponent, so 1 is linear, and 0 is a fixed cost. `controller` is the run's time on the clock less
its stages' seconds, which includes starting their processes; `again` is a run without any change.

The models are random ones with two layers (an encoder and a language model, with the packaged models' tokenizers), so
that the rest of a stage can be seen beside them; --packaged takes the real ones. Texts are sentences of the material,
drawn anew.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from side_by_side import EMBEDDER, LM

NAME = "growth"
CHUNK_TOKENS, SENTENCES_PER_CHUNK, CHUNKS_PER_FILE = 64, 2.2, 50
N_SENTENCES = 2000


def tiny_models(folder: Path) -> dict[str, dict[str, str]]:
    """Two folders as save_pretrained writes them."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    from radit_job.model_ref import ModelRef
    from radit_job.models.loading import model_folder

    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokenizer = AutoTokenizer.from_pretrained(model_folder(ModelRef("packaged", LM)))
    ends = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
    lm = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, tie_word_embeddings=True, **sizes, **ends)
    LlamaForCausalLM(lm).save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    tokenizer = AutoTokenizer.from_pretrained(model_folder(ModelRef("packaged", EMBEDDER)))
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)).save_pretrained(
        folder / "bert"
    )
    tokenizer.save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=256)
    pooling = Pooling(transformer.get_embedding_dimension())
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder / "encoder"))
    places = {"lm": folder / "lm", "embedder": folder / "encoder"}
    return {role: {"provider": "huggingface", "name": str(place)} for role, place in places.items()}


def write_corpus(folder: Path, n_chunks: int, sentences: list[str]) -> list[str]:
    """About n chunks of text in files; returns the sentences in their order."""
    rng = random.Random(n_chunks)
    folder.mkdir(parents=True)
    wanted = rng.choices(sentences, k=round(n_chunks * SENTENCES_PER_CHUNK))
    # A number of its own in each sentence: no two chunks, and no two questions, are the same.
    wanted = [f"{text[:-1]}, as note {number} says." for number, text in enumerate(wanted)]
    per_file = round(CHUNKS_PER_FILE * SENTENCES_PER_CHUNK)
    for start in range(0, len(wanted), per_file):
        (folder / f"{start:07d}.txt").write_text(" ".join(wanted[start : start + per_file]), encoding="utf-8")
    return wanted


def write_questions(path: Path, n: int, sentences: list[str]) -> None:
    rows = []
    for number, text in enumerate(random.Random(n).sample(sentences, n)):
        words = text.split()
        question = f"What stands behind {' '.join(words[:6])} in note {number}?"
        rows.append({"question": question, "answer": " ".join(words[6:16]), "context": text})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(folder: Path, models: dict[str, Any], env: dict[str, str]) -> dict[str, tuple[float, float]]:
    """By stage, and for the controller and the run again: seconds and peak GiB."""
    plan = {
        "name": NAME,
        "corpus": {"paths": [str(folder / "corpus")]},
        "questions": {"source": "file", "path": str(folder / "questions.jsonl")},
        "chunking": {"size_tokens": CHUNK_TOKENS, "overlap_tokens": 0},
        "models": models,
        "retrieval": {"k": 2},
        "finetune_lm": {"epochs": 1},
        "finetune_retriever": {"epochs": 1},
        "answer": {"max_new_tokens": 8},
        "evaluate": {"arms": ["base", "lm", "retriever", "dual"], "train_sample": 0},
    }
    file = folder / "growth.json"
    file.write_text(json.dumps(plan), encoding="utf-8")
    command = [sys.executable, "-m", "radit_job", "run", str(file), "--store", str(folder / "store")]
    took = []
    for _ in range(2):
        start_s = time.perf_counter()
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        took.append(time.perf_counter() - start_s)
        if done.returncode:
            raise SystemExit(done.stdout[-3000:])
    found = stage_costs(folder / "store")
    busy_s = sum(seconds for seconds, _ in found.values())
    return found | {"controller": (took[0] - busy_s, math.nan), "again": (took[1], math.nan)}


def stage_costs(folder: Path) -> dict[str, tuple[float, float]]:
    """What each stage of the run says of itself."""
    from radit_job.pipeline.runs import require_run
    from radit_job.store import open_store
    from radit_job.store.artifacts import find, read_result

    store = open_store(str(folder))
    found = {}
    for name, stage in require_run(store, NAME).stages.items():
        manifest = find(store, name, stage.key) if stage.key else None
        if manifest is not None:
            result = read_result(store, manifest)
            found[name] = (result["seconds"], result["peak_memory_gib"])
    return found


def show(title: str, steps: list[int], runs: list[dict[str, tuple[float, float]]]) -> None:
    print(f"\n{title}\n{'':20}" + "".join(f"{f'{step}x':>10}" for step in steps) + "   exponents" + "   peak GiB")
    for stage in dict.fromkeys(name for one in runs for name in one):
        cells = [one.get(stage, (math.nan, math.nan)) for one in runs]
        seconds = [cell[0] for cell in cells]
        exponents = [
            math.log(max(later, 1e-3) / max(sooner, 1e-3)) / math.log(steps[at + 1] / steps[at])
            for at, (sooner, later) in enumerate(pairwise(seconds))
        ]
        gib = " ".join(f"{cell[1]:.2f}" for cell in cells if not math.isnan(cell[1]))
        rising = " ".join(f"{value:5.2f}" for value in exponents)
        print(f"{stage:20}" + "".join(f"{second:10.2f}" for second in seconds) + f"   {rising}   {gib}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=500)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--packaged", action="store_true", help="the packaged models in place of tiny ones")
    parser.add_argument("--folder", type=Path, help="where the runs stay; by default they are removed")
    args = parser.parse_args()
    env = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    os.environ.update(env)
    from material import prose

    pieces = (" ".join(piece.split()) for _, text in prose() for piece in re.split(r"(?<=[.!?])\s+", text))
    sentences = list(islice((piece for piece in pieces if 80 < len(piece) < 250), N_SENTENCES))
    with tempfile.TemporaryDirectory() as temporary:
        home = args.folder or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        models = {} if args.packaged else tiny_models(home)
        grown: dict[str, list] = {"chunks": [], "questions": []}
        for what, runs in grown.items():
            for step in args.steps:
                folder = home / f"{what}-{step}"
                n_chunks = args.chunks * (step if what == "chunks" else 1)
                n_questions = args.questions * (step if what == "questions" else 1)
                n_chunks = max(n_chunks, n_questions)  # a sentence for each
                written = write_corpus(folder / "corpus", n_chunks, sentences)
                write_questions(folder / "questions.jsonl", n_questions, written)
                runs.append(run(folder, models, env))
                show(
                    f"{what}, {args.chunks} chunks and {args.questions} questions at 1x", args.steps[: len(runs)], runs
                )


if __name__ == "__main__":
    main()
