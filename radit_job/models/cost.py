"""What calls use, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

TUNED = "ft:"  # what the names of tuned models begin with, their kind's name behind it


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    input_usd: float
    output_usd: float = 0.0
    training_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call, or several, used."""

    n_calls: int = 0
    n_prompt_tokens: int = 0
    n_completion_tokens: int = 0
    n_training_tokens: int = 0  # each epoch counted

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.n_calls + other.n_calls,
            self.n_prompt_tokens + other.n_prompt_tokens,
            self.n_completion_tokens + other.n_completion_tokens,
            self.n_training_tokens + other.n_training_tokens,
        )


@dataclass(frozen=True, slots=True)
class Spent:
    """What one model's calls used and cost; `usd` is None where its price is unknown."""

    usage: Usage
    usd: float | None

    def __add__(self, other: Spent) -> Spent:
        is_known = self.usd is not None and other.usd is not None
        return Spent(self.usage + other.usage, (self.usd or 0.0) + (other.usd or 0.0) if is_known else None)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they stand in result.json and results.json."""
        return {**asdict(self.usage), "usd": None if self.usd is None else round(self.usd, 8)}


class Prices:
    """Prices by model name."""

    def __init__(self, by_name: Mapping[str, Price]) -> None:
        self._by_name = dict(by_name)

    def of(self, model: str) -> Price | None:
        """The model's own price; `ft:gpt-x:me::7` has that of the longest name before a colon, such as `ft:gpt-x`.

        No other name is cut: `llama3:70b` is another model than `llama3`.
        """
        name = model
        while name not in self._by_name:
            name, colon, _ = name.rpartition(":")
            if not colon or not name.startswith(TUNED):
                return None
        return self._by_name[name]

    def cost(self, model: str, usage: Usage) -> float | None:
        """US dollars, or None where a price that is needed is unknown."""
        price = self.of(model)
        if price is None or (usage.n_training_tokens and price.training_usd is None):
            return None
        return (
            usage.n_prompt_tokens * price.input_usd
            + usage.n_completion_tokens * price.output_usd
            + usage.n_training_tokens * (price.training_usd or 0.0)
        ) / 1e6
