"""The pipeline as one literal table: what each stage sees, reads and writes.

Adding a stage is one module under `stages/`, one section of the configuration, and one row here;
`tests/unit/test_catalog.py` holds the three together.
"""

from __future__ import annotations

from dataclasses import dataclass

from radit_job.config.slices import (
    AnswerSlice,
    AugmentSlice,
    BenchmarkSlice,
    EvaluateSlice,
    FinetuneLMSlice,
    FinetuneRetrieverSlice,
    GenerateSlice,
    IndexSlice,
    IngestSlice,
    ReportSlice,
    ScoreSlice,
    Slice,
    SplitSlice,
)


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of the pipeline."""

    name: str
    version: int  # raise it when the same inputs would now give another output: it is part of the key
    sees: type[Slice]  # the part of the configuration that the stage gets, and that its key holds
    reads: tuple[str, ...]  # artifacts; a name with "?" may be absent
    writes: tuple[str, ...]  # artifacts: one folder each in the stage's output
    models: tuple[str, ...] = ()  # the slice's fields that name a model: their identities are part of the key
    memory_gib: float = (
        1.0  # what a run with the packaged models needs; local stages run side by side within the machine's memory
    )
    is_heavy: bool = False  # wants all cores: never beside another heavy stage on one machine
    loads_models: bool = False  # imports torch and what stands on it
    is_sharded: bool = False  # gets `shard`, its part of the stage's blocks: several processes can share the work
    spans_nodes: bool = False  # gets `nodes`, the processes that train together; one of them publishes
    pays: bool = False  # may call a paid service: gets `ledger`, which keeps what it paid for
    wants_lineage: bool = False  # gets `lineage`, the record of every stage behind it


# `corpus` and `question_file` are the user's own files, which the controller puts into the store first.
SOURCES = ("corpus", "question_file")

CATALOG: tuple[StageRow, ...] = (
    StageRow("ingest", 1, IngestSlice, reads=("corpus",), writes=("chunks",), models=("embedder",)),
    StageRow(
        "index",
        2,
        IndexSlice,
        reads=("chunks",),
        writes=("embeddings",),
        models=("embedder",),
        memory_gib=1.5,
        loads_models=True,
        is_heavy=True,
        is_sharded=True,
        pays=True,
    ),
    StageRow(
        "generate",
        4,
        GenerateSlice,
        reads=("chunks", "question_file?"),
        writes=("questions",),
        models=("question_writer", "embedder"),
        memory_gib=3.0,
        loads_models=True,
        is_heavy=True,
        is_sharded=True,
        pays=True,
    ),
    StageRow("split", 3, SplitSlice, reads=("questions",), writes=("train_questions", "val_questions"), memory_gib=0.3),
    StageRow(
        "augment",
        4,
        AugmentSlice,
        reads=("train_questions", "chunks", "embeddings"),
        writes=("examples",),
        models=("embedder",),
        memory_gib=1.5,
        loads_models=True,
        pays=True,
    ),
    StageRow(
        "finetune_lm",
        3,
        FinetuneLMSlice,
        reads=("examples",),
        writes=("lm",),
        models=("lm",),
        memory_gib=8.0,
        loads_models=True,
        is_heavy=True,
        spans_nodes=True,
        pays=True,
    ),
    StageRow(
        "score",
        1,
        ScoreSlice,
        reads=("train_questions", "chunks", "embeddings"),
        writes=("lm_scores",),
        models=("lm", "embedder"),
        memory_gib=4.0,
        loads_models=True,
        is_heavy=True,
        is_sharded=True,
        pays=True,
    ),
    StageRow(
        "finetune_retriever",
        1,
        FinetuneRetrieverSlice,
        reads=("lm_scores", "embeddings"),
        writes=("retriever",),
        models=("embedder",),
        memory_gib=3.0,
        loads_models=True,
        is_heavy=True,
    ),
    StageRow(
        "answer",
        5,
        AnswerSlice,
        reads=("train_questions", "val_questions", "chunks", "embeddings", "lm?", "retriever?"),
        writes=("predictions",),
        models=("lm", "embedder"),
        memory_gib=4.0,
        loads_models=True,
        is_heavy=True,
        is_sharded=True,
        pays=True,
    ),
    StageRow(
        "evaluate",
        4,
        EvaluateSlice,
        reads=("predictions", "chunks"),
        writes=("scores", "results"),
        models=("embedder", "judge"),
        memory_gib=1.5,
        loads_models=True,
        pays=True,
    ),
    StageRow(
        "benchmark",
        1,
        BenchmarkSlice,
        reads=("questions", "chunks", "embeddings"),
        writes=("latency",),
        models=("lm", "embedder"),
        memory_gib=4.0,
        loads_models=True,
        is_heavy=True,
        pays=True,
    ),
    StageRow(
        "report",
        3,
        ReportSlice,
        reads=(
            "chunks",
            "questions",
            "train_questions",
            "val_questions",
            "lm?",
            "lm_scores?",
            "retriever?",
            "predictions",
            "scores",
            "results",
            "latency?",
        ),
        writes=("report",),
        memory_gib=0.5,
        wants_lineage=True,
    ),
)
