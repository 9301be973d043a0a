"""How many tokens a text has, fast enough to measure every sentence of a large corpus; imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from radit_job.errors import InputError
from radit_job.model_ref import ModelRef
from radit_job.models.loading import model_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_REMEMBERED_WORDS = 500_000  # about 60 MB


class TokenCounter:
    """Counts a text's tokens, special tokens left out.

    BERT's tokenizers cut at white space before anything else, so a text has as many tokens as its words have together:
    each word is tokenised once and remembered, which is about ten times faster. Other tokenizers see the whole text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()  # sentence-transformers' files ask for it, and a measure must not be cut
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._counts_words = type(tokenizer.pre_tokenizer).__name__ == "BertPreTokenizer"
        self._word_tokens: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        """The number of tokens of one text."""
        if not self._counts_words:
            return self._count(text)
        known = self._word_tokens
        if len(known) > MAX_REMEMBERED_WORDS:
            known.clear()
        total = 0
        for word in text.split():
            n_tokens = known.get(word)
            if n_tokens is None:
                n_tokens = known[word] = self._count(word)
            total += n_tokens
        return total

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])


def open_token_counter(ref: ModelRef) -> Callable[[str], int]:
    """The counter of a model's own tokenizer; of a served model's as far as it is known here (`openai_api.tokens`).

    InputError for a model without a fast tokenizer.
    """
    from tokenizers import Tokenizer

    from radit_job.models.openai_api.tokens import openai_counter, tokenizer_folder

    if ref.provider == "openai" and ref.tokenizer is None:
        return openai_counter(ref.name)
    folder = tokenizer_folder(ref.tokenizer) if ref.provider == "openai" and ref.tokenizer else model_folder(ref)
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise InputError(
            "this model has no fast tokenizer",
            where=str(file),
            todo="save it once with AutoTokenizer's save_pretrained",
        )
    return TokenCounter(Tokenizer.from_file(str(file)))
