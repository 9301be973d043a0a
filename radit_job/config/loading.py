"""A configuration file and its `--set` overrides become a `Config`, or one error that names every problem at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from radit_job.config.schema import Config
from radit_job.config.wording import (
    JsonSchema,
    Place,
    dotted,
    entries_of,
    fields_of,
    in_words,
    names_of,
    schema_at,
    sections,
    takes_text,
    whole_schema,
)
from radit_job.config.yaml_source import parse_yaml
from radit_job.errors import ConfigError

SHOWN_CHARACTERS = 60  # of a wrong value, in its error message
A_KEY = "[key]"  # where pydantic puts what is wrong with a key that the user may choose
TODO = "`radit config` prints every setting with its meaning, its limits and its default."


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration that is valid, and where it came from."""

    config: Config
    path: Path
    folder: Path  # absolute; relative paths in the configuration start here
    text: str  # the YAML that gives this configuration, overrides included: the run's record


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Where a value came from: a line of the file, or an override."""

    override: int  # 0: the file; n: the n-th override
    line: int
    label: str


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One line of the error message."""

    origin: Origin
    field: str  # its dotted path; empty for the file as a whole
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.origin.label, self.field, self.what) if part)


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read, override and validate a configuration.

    An override is `section.field=value`, its value in YAML; a later one wins. Environment variables are not expanded.
    Raises ConfigError with all problems, each on a line of its own: `file.yaml:12: retrieval.kk: unknown key; ...`.
    """
    text = _read_text(path)
    draft = _Draft(text, str(path))
    for number, override in enumerate(overrides, start=1):
        draft.override(number, override)
    config = draft.validate()
    if config is None or draft.problems:
        raise ConfigError("\n".join(map(str, sorted(draft.problems))), todo=TODO)
    if overrides:
        shown = " ".join(f"--set {_shortened(override)}" for override in overrides)
        text = f"# {path.name} with {shown}\n" + yaml.safe_dump(draft.values, sort_keys=False, allow_unicode=True)
    return LoadedConfig(config, path, path.resolve().parent, text)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        todo = "`radit config > my.yaml` writes one to start from."
        raise ConfigError("no such configuration file", where=str(path), todo=todo) from None
    except IsADirectoryError:
        raise ConfigError("this is a folder, not a configuration file", where=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError("the configuration file is not UTF-8 text", where=str(path)) from None
    except OSError as error:
        raise ConfigError(f"the configuration file cannot be read: {error.strerror}", where=str(path)) from None


class _Draft:
    """The values while they are put together, with the origin of each and the problems so far."""

    def __init__(self, text: str, name: str) -> None:
        source = parse_yaml(text, name)
        self.origins = {place: Origin(0, line, f"{name}:{line}") for place, line in source.lines.items()}
        self.origins.setdefault((), Origin(0, 1, f"{name}:1"))
        self.problems: list[Problem] = []
        self.refused = source.refused  # what was said there is enough
        for line, place, what in source.problems:
            self._note(place, what, Origin(0, line, f"{name}:{line}"))
        self.values: dict[str, Any] = {} if source.value is None else source.value
        if not isinstance(self.values, dict):
            what = f"must be fields and sections, such as `name: my-run`, not {_shown(source.value)}"
            raise ConfigError(what, where=self.origins[()].label, todo=TODO)

    def _note(self, place: Place, what: str, origin: Origin) -> None:
        self.problems.append(Problem(origin, dotted(place), what))

    def override(self, number: int, override: str) -> None:
        """Put one `section.field=value` over what stands there."""
        origin = Origin(number, 0, f"--set {_shortened(override)}")
        name, equals, text = override.partition("=")
        keys = name.strip().split(".")
        place = tuple(keys)
        if not equals or not all(keys):
            self._note((), "must have the form section.field=value", origin)
            return
        try:
            value = _override_value(text, schema_at(place))
        except ConfigError as error:
            self._note(place, error.what, origin)
            return
        holder = self.values
        for depth, key in enumerate(keys[:-1], start=1):
            if not isinstance(holder.get(key), dict):
                holder[key] = {}
                self._came_from(place[:depth], origin)
            holder = holder[key]
        holder[keys[-1]] = value
        self._came_from(place, origin)

    def _came_from(self, place: Place, origin: Origin) -> None:
        self.origins = {known: value for known, value in self.origins.items() if known[: len(place)] != place}
        self.origins[place] = origin

    def validate(self) -> Config | None:
        """The configuration, or None with every problem noted."""
        # An empty or absent section is one whose fields were all left out: its defaults, or what it misses by name.
        empty: dict[str, Any] = {name: {} for name, _ in sections() if self.values.get(name) is None}
        try:
            return Config.model_validate({**self.values, **empty})
        except ValidationError as error:
            for details in error.errors(include_url=False):
                place = details["loc"]
                if place[-1:] == (A_KEY,):  # the key itself is wrong: the user sees it, not pydantic's name for it
                    place = place[:-1]
                if not any(place[:length] in self.refused for length in range(1, len(place) + 1)):
                    self._note(place, _explanation(details), self._origin_of(details))
            return None

    def _origin_of(self, error: ErrorDetails) -> Origin:
        place = error["loc"]
        if error["type"] == "value_error":
            # Fields that contradict each other did not do so in the file, if one of them is overridden.
            return max((self._origin(place), *self._overrides_within(place)))
        return self._origin(place)

    def _origin(self, place: Place) -> Origin:
        """Of the value, or of the nearest section around it."""
        while place not in self.origins:
            place = place[:-1]
        return self.origins[place]

    def _overrides_within(self, place: Place) -> list[Origin]:
        within = [origin for known, origin in self.origins.items() if known[: len(place)] == place]
        return [origin for origin in within if origin.override]


def _override_value(text: str, schema: JsonSchema | None) -> Any:
    """The value in YAML. Text needs no quotes: it stays as it is, though YAML might see a number or a comment in it."""
    if schema is not None and takes_text(schema) and text.strip()[:1] not in ('"', "'"):
        return None if text.strip() in ("", "~", "null") else text
    source = parse_yaml(text, "--set")
    for _, _, what in source.problems:
        raise ConfigError(what)
    return source.value


def _explanation(error: ErrorDetails) -> str:
    place, value = error["loc"], error["input"]
    if error["type"] == "extra_forbidden":
        return _unknown_key(place)
    if place[-1:] == (A_KEY,):
        return _unknown_name(place[:-1])
    if error["type"] == "value_error":  # one of the schema's own checks, in its own words
        return str(error["ctx"]["error"])
    schema = schema_at(place) or {}
    if error["type"] == "missing":
        return f"is required: {in_words(schema)}"
    hint = "; put it in quotes" if takes_text(schema) and isinstance(value, bool | int | float) else ""
    return f"must be {in_words(schema)}, not {_shown(value)}{hint}"


def _unknown_key(place: Place) -> str:
    key = str(place[-1])
    siblings = names_of(schema_at(place[:-1]) or {})
    similar = difflib.get_close_matches(key, siblings, n=1)
    meant = similar or [path for path in _all_paths(whole_schema()) if path.endswith(f".{key}")]
    if meant:
        return f"unknown key; did you mean {' or '.join(meant[:3])}?"
    return f"unknown key; known here: {', '.join(siblings)}"


def _unknown_name(place: Place) -> str:
    """What is wrong with a name that the user chose, where only some can stand."""
    names = (schema_at(place[:-1]) or {}).get("propertyNames", {})
    return _unknown_key(place) if "enum" in names else f"its name must be {in_words(names)}"


def _all_paths(schema: JsonSchema, prefix: str = "") -> Iterator[str]:
    for name, inner in fields_of(schema).items():
        yield f"{prefix}{name}"
        entry = entries_of(inner)
        yield from _all_paths(inner, f"{prefix}{name}.")
        yield from _all_paths(entry or {}, f"{prefix}{name}.NAME.")


def _shown(value: Any) -> str:
    """A wrong value as it stands in YAML, shortened: text quoted, so that '3' and 3 differ."""
    if isinstance(value, Mapping):
        return "a section" if value else "an empty section"
    return _shortened(repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
