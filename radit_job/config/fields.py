"""What every section of the configuration is made of: documented fields, strict types, no unknown keys."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


def setting(
    default: Any, meaning: str, *, origin: str, unit: str = "", changes_results: bool = True, **limits: Any
) -> Any:
    """One documented field; `...` as default makes it required. `origin` says where the default comes from.

    `changes_results=False`: how work is done, not what comes out; such a field is in no stage's key.
    """
    extra: Any = {"origin": origin, "unit": unit, "changes_results": changes_results}
    return Field(default, description=meaning, json_schema_extra=extra, **limits)


def section(kind: type[BaseModel], meaning: str) -> Any:
    """One documented section, whose fields carry their own defaults."""
    return Field(default_factory=kind, description=meaning)


def result_values(values: BaseModel) -> dict[str, Any]:
    """A section's values as plain JSON, without the fields that cannot change a result."""
    plain = values.model_dump(mode="json")
    for name, field in type(values).model_fields.items():
        extra = field.json_schema_extra
        value = getattr(values, name)
        if isinstance(extra, dict) and extra.get("changes_results") is False:
            del plain[name]
        elif isinstance(value, BaseModel):
            plain[name] = result_values(value)
    return plain


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
