"""The whole chain, cold, beside the notebook's steps as a plain script: `python benchmarks/quickstart.py [--n 24]`.

The script does what LlamaIndex's RA-DIT notebook does, with the models that radit-job brings: PyMuPDF,
SentenceSplitter, VectorStoreIndex with HuggingFaceEmbedding; the nearest chunks to each training question make a
conversation; TRL's SFTTrainer tunes LoRA on them; base and tuned model answer the held-out questions one at a time
through HuggingFaceLLM; SemanticSimilarityEvaluator compares with the references. Ours is `radit run` of the same
work: the same questions held out, arms base and lm, in a store of its own. Both begin with importing Python's
packages and end with the figures; models are on the disk. The last line is a second `radit run` with nothing changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import EMBEDDER, LM, QUICKSTART, Compared, Timer, alternate, compare, options, passed_on, show

PEER = "the notebook's steps"
WAYS = (PEER, "radit run")
NAME, SEED, RANK = "quickstart", 7, 16
SYSTEM = "You are a helpful assistant that answers questions from the given documents."


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    """What `radit run` is given; the script takes its figures from here, too."""
    return {
        "name": NAME,
        "seed": SEED,
        "corpus": {"paths": [str(args.document)]},
        "questions": {"source": "file", "path": str(args.questions), "limit": args.n},
        "chunking": {"size_tokens": 64, "overlap_tokens": 8},
        "retrieval": {"k": 2, "system_prompt": SYSTEM},
        "finetune_lm": {"epochs": args.epochs, "batch_size": 2, "dev_share": 0, "lora_rank": RANK},
        "answer": {"max_new_tokens": 32},
        "evaluate": {"arms": ["base", "lm"], "train_sample": 0, "metrics": ["semantic_similarity"]},
    }


def radit(args: argparse.Namespace) -> None:
    """Twice: what is timed, and again without any change."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "quickstart.json")  # JSON is YAML
        file.write_text(json.dumps(configuration(args)), encoding="utf-8")
        command = [sys.executable, "-m", "radit_job", "run", str(file), "--store", str(Path(folder, "store"))]
        with Timer() as timer:
            _run(command)
        with Timer() as again:
            _run(command)
        results = json.loads(Path(folder, "store", "runs", NAME, "results.json").read_text(encoding="utf-8"))
    rows = [row for row in results["rows"] if (row["split"], row["metric"]) == ("val", "semantic_similarity")]
    check = {row["arm"]: row["mean"] for row in rows} | {"n": rows[0]["n"]}
    timer.print(check, children=True, again_s=again.seconds)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:])


def notebook(args: argparse.Namespace) -> None:
    """One function after the other, as the cells stand."""
    with Timer() as timer, tempfile.TemporaryDirectory() as folder:
        plan = configuration(args)
        index = build_index(args, plan)
        train, held_out = read_questions(args)
        retriever = index.as_retriever(similarity_top_k=plan["retrieval"]["k"])
        fine_tune(retriever, train, plan, folder)
        similarity = {}
        for arm in ("base", "lm"):
            similarity[arm] = evaluate(index, held_out, plan, None if arm == "base" else folder)
    timer.print(similarity | {"n": len(held_out)})


def build_index(args: argparse.Namespace, plan: dict[str, Any]) -> Any:
    import pymupdf
    import torch
    from llama_index.core import Document, Settings, VectorStoreIndex
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    from transformers import AutoTokenizer

    torch.set_num_threads(args.threads)
    embedder = _folder(EMBEDDER)
    with pymupdf.open(args.document) as document:
        pages = [Document(text=page.get_text()) for page in document]
    chunking = plan["chunking"]
    splitter = SentenceSplitter(
        chunk_size=chunking["size_tokens"],
        chunk_overlap=chunking["overlap_tokens"],
        tokenizer=AutoTokenizer.from_pretrained(embedder).encode,
    )
    Settings.embed_model = HuggingFaceEmbedding(embedder, device="cpu")
    return VectorStoreIndex(splitter.get_nodes_from_documents(pages))


def _folder(name: str) -> str:
    from radit_job.model_ref import ModelRef
    from radit_job.models.loading import model_folder

    return str(model_folder(ModelRef("packaged", name)))


def read_questions(args: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    """Those that train, and those that are held out."""
    train, held_out = (
        [json.loads(line) for line in (args.split / name).read_text(encoding="utf-8").splitlines()]
        for name in ("train.jsonl", "val.jsonl")
    )
    return train, held_out


def write_split(args: argparse.Namespace, folder: Path) -> None:
    """The questions as radit-job divides them, for the script: a run of its own, which nobody times."""
    from radit_job.api import open_run

    file, store = folder / "split.json", folder / "store"
    file.write_text(json.dumps(configuration(args)), encoding="utf-8")
    _run([sys.executable, "-m", "radit_job", "run", str(file), "--store", str(store), "--until", "split"])
    run = open_run(str(store), NAME)
    for side in ("train", "val"):
        shutil.copy(run.artifact(f"{side}_questions") / "questions.jsonl", folder / f"{side}.jsonl")


def _prompt(tokenizer: Any, question: str) -> str:
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def fine_tune(retriever: Any, train: list[dict], plan: dict[str, Any], out: str) -> None:
    import torch
    from datasets import Dataset
    from llama_index.core.prompts.default_prompts import DEFAULT_TEXT_QA_PROMPT
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(_folder(LM))
    rows = []
    for pair in train:
        context = "\n\n".join(found.node.get_content() for found in retriever.retrieve(pair["question"]))
        asked = DEFAULT_TEXT_QA_PROMPT.format(context_str=context, query_str=pair["question"])
        rows.append({"prompt": _prompt(tokenizer, asked), "completion": pair["answer"]})
    settings = plan["finetune_lm"]
    config = SFTConfig(
        out,
        per_device_train_batch_size=settings["batch_size"],
        num_train_epochs=settings["epochs"],
        learning_rate=5e-4,
        lr_scheduler_type="cosine",
        gradient_checkpointing=False,  # slower with it
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(_folder(LM), dtype=torch.float32)
    trainer = SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora
    )
    trainer.train()
    trainer.model.merge_and_unload().save_pretrained(out)
    tokenizer.save_pretrained(out)


def evaluate(index: Any, held_out: list[dict], plan: dict[str, Any], tuned: str | None) -> float:
    """Mean cosine of answers and references."""
    from llama_index.core.evaluation import SemanticSimilarityEvaluator
    from llama_index.llms.huggingface import HuggingFaceLLM
    from transformers import AutoTokenizer

    folder = tuned or _folder(LM)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    llm = HuggingFaceLLM(
        model_name=folder,
        tokenizer_name=folder,
        max_new_tokens=plan["answer"]["max_new_tokens"],
        generate_kwargs={"do_sample": False},
        completion_to_prompt=lambda text: _prompt(tokenizer, text),
    )
    engine = index.as_query_engine(llm=llm, similarity_top_k=plan["retrieval"]["k"])
    evaluator = SemanticSimilarityEvaluator()
    scores = [
        evaluator.evaluate(response=str(engine.query(pair["question"])).strip(), reference=pair["answer"]).score
        for pair in held_out
    ]
    return sum(scores) / len(scores)


def says(row: Compared) -> str:
    said = ", ".join(f"{arm} {row.check[arm]:.3f}" for arm in ("base", "lm"))
    again = f"; run again without a change: {row.facts['again_s']:.2f} s" if "again_s" in row.facts else ""
    return f"cosine with the {row.check['n']} references: {said}{again}"


def main() -> None:
    parser = options(__doc__, WAYS, rounds=1)
    parser.add_argument("--document", type=Path, default=QUICKSTART / "handbook.pdf")
    parser.add_argument("--questions", type=Path, default=QUICKSTART / "questions.jsonl")
    parser.add_argument("--n", type=int, default=24, help="questions, 70 %% of them to train")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--split", type=Path, help="a folder with train.jsonl and val.jsonl, for the script")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.split is None and args.only != WAYS[1]:
            args.split = Path(folder)
            write_split(args, args.split)
        if args.only:
            os.environ["OMP_NUM_THREADS"] = str(args.threads)
            notebook(args) if args.only == PEER else radit(args)
            return
        more = passed_on(args, ("document", "questions", "n", "epochs", "split"))
        rows = compare(alternate(__file__, args.ways, args.rounds, args.threads, more), PEER)
        show(rows, says, as_json=args.json)


if __name__ == "__main__":
    main()
