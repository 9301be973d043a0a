"""From messages to token ids: the chat template, the answer's tokens, and where an answer ends."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from radit_job.errors import InputError
from radit_job.models.base import Conversation
from radit_job.records import Message

# For a base model whose tokenizer has no chat template: the texts, one below the other.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
)

BOS = "{{ bos_token }}"
# Some templates write today's date or ask for thoughts before the answer; a prompt shall be the same every day, and
# what is learnt is the answer alone. Other templates ignore these.
FIXED = {"date_string": "26 Jul 2024", "enable_thinking": False}


class ChatFormat:
    """How one model's conversations are written as tokens; the same for training, scoring and answering."""

    def __init__(self, tokenizer: Any, end_ids: tuple[int, ...] = ()) -> None:
        """`tokenizer` is a transformers tokenizer; `end_ids` are more tokens after which the model has finished.

        InputError if nothing tells where an answer ends.
        """
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            adds_bos = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
            tokenizer.chat_template = f"{BOS if adds_bos else ''}{PLAIN_TEMPLATE}"  # saved with the tuned model
        self.end_of_turn_id = self._find_end_of_turn()
        eos = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.end_ids = frozenset((*end_ids, *eos, self.end_of_turn_id))

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """The tokens up to where the assistant's answer begins."""
        return self.text_ids(self.render(conversation))

    def answer_ids(self, answer: str) -> list[int]:
        """The answer's tokens and the end-of-turn token: what training learns and scoring sums over."""
        return [*self.text_ids(answer), self.end_of_turn_id]

    def text_ids(self, text: str) -> list[int]:
        """A text's tokens, nothing added."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text begins and ends, as character offsets."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [(int(start), int(end)) for start, end in encoded.offset_mapping]

    def text(self, ids: list[int]) -> str:
        """The text of generated tokens, without special tokens, stripped."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def render(self, conversation: Conversation, *, ask: bool = True) -> str:
        """The conversation as the template writes it; with `ask`, up to where the assistant's answer begins."""
        messages = [{"role": message.role, "content": message.content} for message in conversation]
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask, **FIXED)
            return str(text)
        except TemplateError:
            if messages[0]["role"] != "system" or len(messages) < 2:
                raise
        # Some templates know no system turn (Gemma's, Mistral's first): then its text goes before the first question.
        system, first, *rest = conversation
        return self.render([Message(first.role, f"{system.content}\n\n{first.content}"), *rest], ask=ask)

    def _find_end_of_turn(self) -> int:
        """The special token that the template writes behind an answer; the end-of-sequence token if it writes none."""
        turn = [Message("user", "question"), Message("assistant", "ANSWER")]
        tail = self.render(turn, ask=False).rpartition("ANSWER")[2]
        special = {token_id for token_id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        for token_id in self.text_ids(tail):
            if token_id in special:
                return token_id
        if self.tokenizer.eos_token_id is None:
            raise InputError(
                "this tokenizer has no end-of-sequence token, so no answer would ever end",
                where=str(self.tokenizer.name_or_path),
                todo="set eos_token in its tokenizer_config.json",
            )
        return int(self.tokenizer.eos_token_id)
