"""What every section of the configuration is made of: documented fields, strict types, no unknown keys."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


def setting(default: Any, meaning: str, *, origin: str, unit: str = "", **limits: Any) -> Any:
    """One documented field; `...` as default makes it required. `origin` says where the default comes from."""
    return Field(default, description=meaning, json_schema_extra={"origin": origin, "unit": unit}, **limits)


def section(kind: type[BaseModel], meaning: str) -> Any:
    """One documented section, whose fields carry their own defaults."""
    return Field(default_factory=kind, description=meaning)


class Section(BaseModel):
    """What all sections share: unknown keys are errors, values do not change after loading."""

    # Defaults are validated too: 3 and 3.0 are then one value, written or left out, and have one digest.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads yes, no, on and off as true and false, and pydantic would go on to 1 and 0.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("not_a_switch", "true and false are not expected here")
        return value
