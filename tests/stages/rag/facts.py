"""Ten paragraphs with a question each, and the configuration that the tests of this folder share."""

import dataclasses

from radit_job.config.schema import Config
from radit_job.records import Question, write_rows

# (text, question, answer)
PARAGRAPHS = (
    (
        "The heron waits in shallow water and stabs at fish with its bill.",
        "How does a heron catch fish?",
        "with its bill",
    ),
    ("Basalt forms when lava cools quickly at the surface.", "What rock does quickly cooling lava form?", "basalt"),
    ("A violin has four strings tuned in fifths: G, D, A and E.", "How many strings does a violin have?", "four"),
    ("The tide turns about every six hours, drawn by the moon.", "What draws the tide?", "the moon"),
    ("Sourdough rises through wild yeast and {bacteria} in the starter.", "What makes sourdough rise?", "wild yeast"),
    (
        "The steam engine's governor keeps its speed with two spinning balls.",
        "What does a governor keep steady?",
        "speed",
    ),
    ("Chess masters see patterns of pieces, not single pieces.", "What do chess masters see?", "patterns"),
    ("A camel stores fat in its hump, not water.", "What is in the hump of a camel?", "fat"),
    ("Paper was made from mulberry bark in ancient China.", "What bark was used for paper in China?", "mulberry"),
    (
        "The ballot is secret so that no voter can be bought or frightened.",
        "Why is the ballot secret?",
        "so nobody is bought",
    ),
)


def make_config(**sections):
    return Config.model_validate({"name": "test", "corpus": {"paths": ["."]}, "retrieval": {"k": 3}} | sections)


def question(number, **changes):
    _, text, answer = PARAGRAPHS[number]
    row = Question(f"q{number}", text, answer, "facts.txt", (f"facts.txt#{number:05d}",), "file")
    return dataclasses.replace(row, **changes)


def write_questions(folder, rows):
    write_rows(folder / "questions.jsonl", rows)
    return folder
