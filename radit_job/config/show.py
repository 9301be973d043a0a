"""The configuration as YAML for people: the whole schema with its comments, or one configuration's values."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from radit_job.config.schema import Config
from radit_job.config.wording import (
    JsonSchema,
    Place,
    alternatives,
    dotted,
    entries_of,
    fields_of,
    in_words,
    items_of,
    names_of,
    resolve,
    whole_schema,
)

WIDTH = 80  # characters in a line, where the text allows it
EXAMPLES = {"name": "my-run", "corpus": {"paths": ["documents/"]}}  # for the fields that have no default
HEADER = (
    "Every setting of a run, with its default. Only `name` and `corpus.paths` are required: "
    "keep what you change and leave out the rest. Unknown keys are errors. "
    "On the command line, `--set section.field=value` changes one setting for one run."
)


def schema_as_yaml() -> str:
    """The whole schema as commented YAML, which loads again to the defaults (required fields hold an example)."""
    config = Config.model_validate(EXAMPLES)
    lines = [*_comment(HEADER, 0), *_Commented().section(whole_schema(), config.model_dump(mode="json"), ())]
    return "\n".join(lines) + "\n"


def config_as_yaml(config: Config) -> str:
    """The values in force, defaults included, as plain YAML in the schema's order."""
    return "\n".join(_section(config.model_dump(mode="json"), 0)) + "\n"


class _Commented:
    """Writes sections with a comment on each field; a kind of section used again is explained only the first time."""

    def __init__(self) -> None:
        self.explained_at: dict[str, str] = {}  # title of a kind of section -> where its fields are explained

    def section(self, schema: JsonSchema, values: dict[str, Any], place: Place) -> Iterator[str]:
        """The lines of one section's fields."""
        indent = 2 * len(place)
        for name, field in fields_of(schema).items():
            inner = (*place, name)
            yield ""
            if isinstance(values[name], dict) and fields_of(field):
                yield from self._subsection(resolve(field), values[name], inner)
                continue
            yield from _comment(field["description"], indent)
            yield from _comment(self._facts(field, name in resolve(schema).get("required", ())), indent)
            kind = self._kind_within(field)
            if kind is None:
                yield from _entry(name, values[name], indent)
            elif isinstance(values[name], dict) and values[name]:
                yield f"{' ' * indent}{_inline(name)}:"
                yield from self._entries(kind, values[name], inner)
            else:
                yield from self._example(kind, field, inner)
                yield from _entry(name, values[name], indent)

    def _subsection(self, schema: JsonSchema, values: dict[str, Any], place: Place) -> Iterator[str]:
        indent = 2 * (len(place) - 1)
        if indent == 0:
            yield "# " + "-" * (WIDTH - 2)
        yield from _comment(schema["description"], indent)
        yield from self._fields(schema, values, place)

    def _entries(self, kind: JsonSchema, values: dict[str, Any], place: Place) -> Iterator[str]:
        """Sections of one kind, under names of the user's own."""
        for number, (name, fields) in enumerate(values.items()):
            yield from [""] if number else []
            yield from self._fields(kind, fields, (*place, name))

    def _fields(self, kind: JsonSchema, values: dict[str, Any], place: Place) -> Iterator[str]:
        indent = 2 * (len(place) - 1)
        if kind["title"] in self.explained_at:
            yield from _comment(f"Fields: as in {self.explained_at[kind['title']]}.", indent)
            yield from _entry(str(place[-1]), values, indent)
        else:
            self.explained_at[kind["title"]] = dotted(place)
            yield f"{' ' * indent}{_inline(place[-1])}:"
            # The first field follows its section's name without a gap.
            yield from list(self.section(kind, values, place))[1:]

    def _example(self, kind: JsonSchema, field: JsonSchema, place: Place) -> Iterator[str]:
        """Of a kind of section that no default holds: its fields as a comment, to be taken out of it."""
        if kind["title"] in self.explained_at:
            return
        start = " " * 2 * (len(place) - 1)
        inner = place
        yield f"{start}# {place[-1]}:"
        if items_of(field) is not None:
            inner = (*place, "-")
            yield f"{start}#   -"
        elif entries_of(field) is not None:
            inner = (*place, next(iter(names_of(field)), "NAME"))
            yield f"{start}#   {inner[-1]}:"
        self.explained_at[kind["title"]] = dotted(place)
        values = {name: inner_field.get("default") for name, inner_field in fields_of(kind).items()}
        for line in list(self.section(kind, values, (*inner, "")))[1:]:
            yield f"{start}# {line[len(start) + 2 :]}".rstrip()

    def _kind_within(self, field: JsonSchema) -> JsonSchema | None:
        """The kind of section that a field may hold, be it in a list, under names, or instead of null."""
        for option in (*alternatives(field), items_of(field), entries_of(field)):
            if option is not None and "properties" in resolve(option):
                return resolve(option)
        return None

    def _facts(self, field: JsonSchema, is_required: bool) -> str:
        """One sentence on what the field may hold, one on why its default is what it is."""
        what = in_words(field)
        for option in alternatives(field):
            if "properties" in option and option["title"] in self.explained_at:  # a section that is null by default
                what = f"null, or a section with the fields of {self.explained_at[option['title']]}"
        facts = f"{what[0].upper()}{what[1:]}."
        if is_required:
            return f"{facts} Required."
        return f"{facts} Why: {field['origin']}." if field.get("origin") else facts


def _section(values: dict[str, Any], indent: int) -> Iterator[str]:
    for name, value in values.items():
        yield from _entry(name, value, indent)


def _entry(name: str, value: Any, indent: int) -> Iterator[str]:
    """`name: value` on one line where it fits, else on several."""
    start = " " * indent + f"{_inline(name)}:"
    if isinstance(value, dict) and value:
        yield start
        yield from _section(value, indent + 2)
    elif isinstance(value, str) and "\n" in value:
        yield f'{start} "\\'
        yield from _text_lines(value, indent + 2)
    elif isinstance(value, list) and len(start) + 1 + len(_inline(value)) > WIDTH:
        yield start
        yield from (f"{' ' * indent}  - {_inline(item)}" for item in value)
    else:
        yield f"{start} {_inline(value)}"


def _inline(value: Any) -> str:
    shown = _dump(value)
    return shown if len(shown.splitlines()) == 1 else _dump(value, default_style='"')


def _dump(value: Any, **style: Any) -> str:
    shown: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"), **style)
    return shown.removesuffix("\n").removesuffix("\n...")


def _text_lines(text: str, indent: int) -> Iterator[str]:
    """The inside of a double-quoted text, one line each: spaces at a line's end stay visible, and survive an editor."""
    *lines, last = text.split("\n")
    for line in lines:
        yield " " * indent + _escaped(f"{line}\n") + "\\"
    yield " " * indent + _escaped(last) + '"'


def _escaped(line: str) -> str:
    escaped = _dump(line, default_style='"')[1:-1]
    return f"\\{escaped}" if escaped.startswith(" ") else escaped  # else YAML takes the space for indentation


def _comment(text: str, indent: int) -> list[str]:
    start = " " * indent + "# "
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)
