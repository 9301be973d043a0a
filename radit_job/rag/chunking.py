"""Documents to token-sized chunks by LlamaIndex's SentenceSplitter, with offsets and pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llama_index.core.node_parser import SentenceSplitter

from radit_job.rag.documents import Document, page_at
from radit_job.rag.sentences import split_sentences
from radit_job.records import Chunk

CountTokens = Callable[[str], int]  # how many tokens a text has, special tokens left out


class Chunker:
    """Cuts documents into the chunks that `SentenceSplitter(chunk_size, chunk_overlap, tokenizer)` gives."""

    def __init__(self, size_tokens: int, overlap_tokens: int, count_tokens: CountTokens) -> None:
        self._overlap_tokens = overlap_tokens
        self._too_long_words = 2 * size_tokens
        self._count_tokens = count_tokens
        self._splitter = SentenceSplitter(
            chunk_size=size_tokens,
            chunk_overlap=overlap_tokens,
            tokenizer=self._tokens,
            chunking_tokenizer_fn=split_sentences,
        )

    def cut(self, document: Document) -> Iterator[Chunk]:
        """The document's chunks in order; `document.text[start_char:end_char]` is each chunk's text."""
        text = document.text
        page_starts = document.page_starts()
        for index, (start, piece) in enumerate(self._locate(text, self._splitter.split_text(text))):
            yield Chunk(
                chunk_id=f"{document.name}#{index:05d}",
                document=document.name,
                page=page_at(page_starts, start) if document.has_pages else None,
                start_char=start,
                end_char=start + len(piece),
                n_tokens=self._count_tokens(piece),
                text=piece,
            )

    def _locate(self, text: str, pieces: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Where each piece stands; the splitter loses nothing between its pieces, but does not say where they are."""
        start, end = -1, 0
        for piece in pieces:
            start = self._find(piece, text, start, end)
            end = start + len(piece)
            yield start, piece

    def _find(self, piece: str, text: str, last_start: int, last_end: int) -> int:
        """The first place that comes behind the last piece's start, adds something to it, and shares few enough tokens.

        In a text that repeats itself the piece stands in other places too; the wrong one would shift all that follow.
        """
        first = place = text.index(piece, max(last_start + 1, last_end - len(piece) + 1))
        while place < last_end and self._count_tokens(text[place:last_end]) > self._overlap_tokens:
            place = text.find(piece, place + 1)
            if place < 0:  # a tokenizer that counts a text otherwise than its parts
                return first
        return place

    def _tokens(self, text: str) -> range:
        """What the splitter measures; it takes the length only, so a range stands for the tokens.

        It asks for the whole document first. Every word is at least one token, so a text of that many words is too long
        for a chunk, and by how much does not matter: it is not tokenised.
        """
        n_words = len(text.split(maxsplit=self._too_long_words))
        return range(n_words if n_words > self._too_long_words else self._count_tokens(text))
