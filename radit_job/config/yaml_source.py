"""YAML as plain values that know their line: what `yaml.safe_load` would give, and where each value stands.

Stricter than `safe_load` in two ways: a key given twice is a problem, and so is every tag but those of plain data.
Dates stay the text that they are, for no setting is a date.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from radit_job.config.wording import Place
from radit_job.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_TYPED = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float")}
_TEXT = {f"{_TAG}{name}" for name in ("str", "timestamp", "value")}
_MERGE = f"{_TAG}merge"
_HINTS = {
    "found character '\\t' that cannot start any token": "Indent with spaces, not with tabs.",
    "mapping values are not allowed here": "A text that holds a colon and a space needs quotes.",
}


@dataclass
class YamlSource:
    """A YAML text as plain values."""

    value: Any
    lines: dict[Place, int] = field(default_factory=dict)  # 1-based; a field's line is that of its key
    problems: list[tuple[int, Place, str]] = field(default_factory=list)  # (line, place, what): it could go on
    refused: set[Place] = field(default_factory=set)  # places whose value was left out because of such a problem


def parse_yaml(text: str, name: str) -> YamlSource:
    """Parse one YAML document; ConfigError with `name`, line and column where it is not YAML at all."""
    try:
        return _Reader(text).source
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        what = str(error.problem or error.context)
        what = f"{error.context}, {what}" if what.startswith("but ") else what
        raise ConfigError(f"not valid YAML: {what}", where=where, todo=_HINTS.get(what)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        what = f"not valid YAML: the character #x{int(error.character):04x} cannot stand in a text"
        raise ConfigError(what, where=f"{name}:{line}") from None
    except RecursionError:
        raise ConfigError("values are nested too deeply, or an anchor holds itself", where=name) from None


class _Reader:
    """One walk over the tree of YAML nodes."""

    def __init__(self, text: str) -> None:
        self.loader = yaml.SafeLoader(text)
        self.checked_nodes: set[int] = set()  # mappings reached before, through an anchor
        self.source = YamlSource(None)
        root = self.loader.get_single_node()
        if root is not None:
            self.source.lines[()] = root.start_mark.line + 1
            self.source.value = self._value(root, ())

    def _value(self, node: yaml.Node, place: Place) -> Any:
        self.source.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._value(item, (*place, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _TEXT:
            return node.value
        if isinstance(node, yaml.ScalarNode) and node.tag in _TYPED:
            try:
                return self.loader.construct_object(node)
            except (ValueError, KeyError):  # such as !!int three; PyYAML lets Python's own errors through
                return node.value
        tag = node.tag.replace(_TAG, "!!")
        self.source.refused.add(place)
        self._problem(node, place, f"the tag {tag} is not allowed; write plain text, numbers and lists")
        return None

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        if id(node) not in self.checked_nodes:
            self.checked_nodes.add(id(node))
            self._refuse_repeated_keys(node, place)
            self.loader.flatten_mapping(node)  # resolves "<<: *anchor"; the mapping's own keys then come last, and win
        values = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._problem(key, place, "a key must be plain text")
                continue
            inner = (*place, key.value)
            self.source.lines[inner] = key.start_mark.line + 1
            values[key.value] = self._value(value, inner)
        return values

    def _refuse_repeated_keys(self, node: yaml.MappingNode, place: Place) -> None:
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if key.value in first_lines:
                self._problem(key, (*place, key.value), f"given twice, first on line {first_lines[key.value]}")
            else:
                first_lines[key.value] = key.start_mark.line + 1

    def _problem(self, node: yaml.Node, place: Place, what: str) -> None:
        self.source.problems.append((node.start_mark.line + 1, place, what))
