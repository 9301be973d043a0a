"""The configuration's sections finetune_lm and finetune_retriever: the two halves of RA-DIT."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from radit_job.config.fields import Section, section, setting
from radit_job.config.services import FinetuneAPI


class Examples(Section):
    """What else the training examples hold, beside what retrieval finds."""

    without_gold_share: float = setting(
        0.0,
        "Share of the training questions, drawn with the seed, from whose context the gold chunks are left out (the "
        "next ones take their place), so that the model learns to fall back on what it knows.",
        unit="share",
        origin="retrieval itself misses some; RAFT takes 0.2 to 0.6",
        ge=0,
        le=1,
    )
    distractors: int | None = setting(
        None,
        "null: the context is what retrieval finds. A number: it is the gold chunk and so many near misses, the "
        "nearest chunks that are not gold, in an order drawn with the seed (RAFT). A question without a known gold "
        "chunk gets as many of its nearest chunks, in such an order, too.",
        unit="chunks",
        origin="as in RA-DIT",
        ge=0,
    )


class FinetuneLM(Section):
    """The LM half of RA-DIT."""

    engine: Literal["local", "openai"] = setting(
        "local",
        "Where it trains: in the stage's own process, or by a fine-tuning API (then models.lm is the model that the "
        "service tunes; epochs, dev_share, context, examples and the section api hold there, the other fields do not).",
        origin="needs nothing",
    )
    context: Literal["retrieved", "none"] = setting(
        "retrieved",
        "retrieved: training questions carry the chunks that retrieval finds (RA-DIT). none: the bare question, so "
        "that the model must keep the knowledge itself (the notebook's other form); the arm lm_closed_book asks it so.",
        origin="what RA-DIT is",
    )
    examples: Examples = section(Examples, "What else the training examples hold.")
    api: FinetuneAPI = section(FinetuneAPI, "With engine openai.")
    method: Literal["lora", "full"] = setting(
        "lora", "Low-rank adapters, or all weights.", origin="less memory; equal quality in our runs"
    )
    epochs: float = setting(
        3,
        "Passes over the training examples.",
        unit="epochs",
        origin="held-out loss rises after it on small sets",
        gt=0,
    )
    learning_rate: float | None = setting(
        None, "Peak of the schedule. null: 5e-4 for lora, 5e-5 for full.", origin="measured on the packaged model", gt=0
    )
    warmup_share: float = setting(
        0.05,
        "Share of the steps in which the rate rises; then it falls as a cosine.",
        unit="share",
        origin="RA-DIT: 200 steps of 500 on large data",
        ge=0,
        lt=1,
    )
    batch_size: int = setting(
        4, "Examples in one forward pass.", unit="examples", origin="fits 8 GB for the packaged model", ge=1
    )
    accumulation_steps: int = setting(
        1, "Forward passes for one step of the optimizer.", unit="passes", origin="a step of batch_size examples", ge=1
    )
    max_tokens: int = setting(
        1024,
        "Longest example, and never more than the model reads; a longer one loses context, or is dropped where that "
        "would touch its question or its answer.",
        unit="tokens",
        origin="k=3 chunks of 254 fit",
        ge=64,
    )
    lora_rank: int = setting(16, "Rank of the adapters.", origin="measured: 8 to 32 alike", ge=1)
    weight_decay: float = setting(0.0, "AdamW's decoupled weight decay.", origin="none for adapters", ge=0)
    dev_share: float = setting(
        0.1,
        "Share of the training groups held out to choose the best checkpoint and to stop early; the evaluation "
        "questions are never used for that.",
        unit="share",
        origin="choosing on the evaluation set would flatter the result",
        ge=0,
        lt=1,
    )
    patience: int = setting(
        2,
        "Stop when the held-out loss has not fallen for so many evaluations; 0: never.",
        unit="evaluations",
        origin="held-out loss rises after its minimum",
        ge=0,
    )
    evaluations_per_epoch: int = setting(
        1, "How often the held-out loss is measured.", unit="per epoch", origin="small data", ge=1
    )
    checkpoint_interval_s: float = setting(
        60.0,
        "At least so often a checkpoint is kept, from which a killed run goes on.",
        unit="seconds",
        origin="a minute lost at most",
        changes_results=False,
        gt=0,
    )
    nodes: int = setting(
        1,
        "Machines that train together: pods of one Job in a cluster, processes of this machine without one. LoRA: "
        "each has all weights (DDP); full: each has a share of them (FSDP). The examples of a step are shared out, so"
        " the loss is that of one process.",
        unit="pods",
        origin="one",
        changes_results=False,
        ge=1,
        le=64,
    )
    processes_per_node: int = setting(
        1,
        "Training processes of each machine: one per GPU.",
        unit="processes",
        origin="one",
        changes_results=False,
        ge=1,
        le=16,
    )

    @model_validator(mode="after")
    def _fields_fit_the_engine(self) -> FinetuneLM:
        if self.context == "none" and self.examples != Examples():
            raise ValueError("examples is about chunks, but context: none gives the training questions none")
        if self.engine == "openai" and (self.nodes, self.processes_per_node) != (1, 1):
            raise ValueError("nodes and processes_per_node go with engine: local; a service has its own machines")
        if self.engine == "openai" and self.epochs != int(self.epochs):
            raise ValueError(f"a fine-tuning API takes whole epochs, not {self.epochs:g}")
        if self.engine == "local" and self.api != FinetuneAPI():
            raise ValueError("the section api goes with engine: openai")
        return self


class FinetuneRetriever(Section):
    """The retriever half of RA-DIT: language-model-supervised retrieval (LSR); the query encoder alone is trained."""

    candidates: int = setting(
        8,
        "Nearest chunks of each training question among which the LM's preference is learned; never more than there "
        "are.",
        unit="chunks",
        origin="an epoch of scoring takes 0.9 s a question on 2 cores; REPLUG has 20",
        ge=2,
    )
    likelihood: Literal["per_token", "whole_answer"] = setting(
        "per_token",
        "What of p_LM(answer | chunk, question) is compared. per_token: exp of the mean log-probability of the "
        "answer's tokens. whole_answer: the probability itself (as in the papers), which is about 1e-13 for a "
        "sentence, so that the target goes flat; for answers of a word or two.",
        origin="long answers",
    )
    lm_temperature: float = setting(
        0.1,
        "tau of the target p_LSR(c) = softmax of the likelihood / tau over the candidates. Lower is more pointed; the "
        "report shows the target's entropy.",
        origin="likelihoods per token differ by 0.1 to 0.3; the paper has 0.01 for whole answers",
        gt=0,
    )
    retriever_temperature: float | None = setting(
        None,
        "t of the retriever's p_R(c) = softmax of the cosine / t. null: the one at which the untuned retriever is as "
        "sure of its chunks as the target of the training questions is (equal mean entropy), so that training moves "
        "which chunks come first, and not how sure the retriever is of them. In answering, retrieval.temperature "
        "weighs them.",
        origin="measured: at 0.05 the KL fell by flattening the retriever, and recall fell with it",
        gt=0,
    )
    divergence: Literal["reverse", "forward"] = setting(
        "forward",
        "forward: KL(p_LSR || p_R), as in Atlas and in knowledge distillation. reverse: KL(p_R || p_LSR), as RA-DIT "
        "and REPLUG write it; where the target is pointed it punishes each chunk that the LM finds useless without "
        "limit.",
        origin="measured: on a hundred questions the held-out KL falls with forward, and rises at first with reverse",
    )
    warm_start_epochs: int = setting(
        0,
        "Epochs of contrastive training before LSR: the gold chunk, or else the candidate that the LM likes best, "
        "against the question's other candidates and those of its batch.",
        unit="epochs",
        origin="LSR alone, as in the papers",
        ge=0,
    )
    contrastive_weight: float = setting(
        0.0,
        "Weight of that contrastive loss beside LSR's, with hard negatives from the batch.",
        origin="LSR alone, as in the papers",
        ge=0,
    )
    epochs: int = setting(
        6,
        "Passes of LSR over the training questions at most.",
        unit="epochs",
        origin="held-out KL had its minimum by then on a hundred questions",
        ge=1,
    )
    learning_rate: float = setting(
        2e-5, "Peak of the schedule.", origin="usual for a sentence encoder; RA-DIT has 1e-5", gt=0
    )
    warmup_share: float = setting(
        0.1,
        "Share of the steps in which the rate rises; then it falls as a cosine.",
        unit="share",
        origin="usual",
        ge=0,
        lt=1,
    )
    batch_size: int = setting(16, "Questions in one step.", unit="questions", origin="small data", ge=1)
    weight_decay: float = setting(
        0.01, "AdamW's decoupled weight decay.", origin="sentence-transformers' examples", ge=0
    )
    dev_share: float = setting(
        0.15,
        "Share of the training groups held out to choose the best epoch and to stop early; the evaluation questions "
        "are never used for that.",
        unit="share",
        origin="choosing on the evaluation set would flatter the result",
        ge=0,
        lt=1,
    )
    patience: int = setting(
        2,
        "Stop when the held-out KL has not fallen for so many epochs; 0: never.",
        unit="epochs",
        origin="small data",
        ge=0,
    )
