"""Amounts as Kubernetes writes them."""

from __future__ import annotations

import re

_UNITS = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip
_FORM = re.compile(r"^([0-9.]+(?:[eE][0-9]+)?)([A-Za-z]*)$")


def parse_quantity(text: str | float | int) -> float:
    """500m is 0.5, 2Gi is 2147483648."""
    found = _FORM.match(str(text))
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"not a quantity: {text}")
    return float(found[1]) * _UNITS[found[2]]
