"""YAML text in, plain values out, and back: no tags, no aliases, no key twice, and of YAML 1.2 what JSON has too."""

from __future__ import annotations

import io
import sys
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, ScalarEvent
from ruamel.yaml.nodes import MappingNode
from ruamel.yaml.resolver import VersionedResolver

from ray_synth.config.section import short
from ray_synth.errors import InputError

CURES = {  # what a parser's words mean for who typed the text
    "\\t": "indent with spaces, not with tabs",
    "cannot start any token": "put the text in quotes",
    "mapping values are not allowed": "each key needs a line of its own, and a text that holds ': ' goes in quotes",
    "expected ',' or": "close the bracket",
    "unexpected end of stream": "close the quote",
    "found another document": "leave one document, without ---",
    "expected <block end>": "give the keys of one section one indentation",
    "stands twice": "remove one of them",
}


def read_yaml(text: str) -> Any:
    """Text, numbers, true and false, null, lists and mappings as in YAML 1.2: `yes`, `1:30` and dates are text.

    Raises:
        InputError: no plain YAML. The message gives line, column, what stands there and what to do; it begins without
            the name of the file.
    """
    reader = YAML(typ="safe", pure=True)
    reader.Composer, reader.Resolver = _PlainComposer, _PlainResolver
    try:
        return reader.load(text)
    except MarkedYAMLError as error:
        problem = (error.problem or "").replace("found duplicate key", "the key stands twice:")
        begun = f"{error.context} of line {error.context_mark.line + 1}: " if error.context_mark else ""
        cure = next((f"; {cure}" for words, cure in CURES.items() if words in problem), "")
        mark, lines = error.problem_mark, text.split("\n")
        line = short(lines[min(mark.line, len(lines) - 1)].strip())
        where = f"line {mark.line + 1}, column {mark.column + 1} ({line})"
        raise InputError(f"{where}: {begun}{problem}{cure}") from None
    except Exception as error:  # characters that no text holds, integers of thousands of digits, endless nesting
        raise InputError(" ".join(str(error).split())) from None


def as_yaml(values: Any, *, allow_unicode: bool = False) -> str:
    """Plain values as text that `read_yaml` reads back, keys in their order. allow_unicode: for people to read."""
    writer, text = YAML(typ="safe", pure=True), io.StringIO()
    writer.default_flow_style, writer.allow_unicode = False, allow_unicode
    writer.width = sys.maxsize  # where it folds a text with escapes, a space goes or comes
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.dump(values, text)
    return text.getvalue()


class _PlainComposer(Composer):
    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        if isinstance(event, AliasEvent):  # a few lines of them make billions of values
            refused = "aliases (*name) are not allowed here; write the values themselves, or share them with base: FILE"
        elif event.ctag is not None:
            refused = f"tags ({event.ctag}) are not allowed here; write the value alone"
        elif isinstance(parent, MappingNode) and index is None and not isinstance(event, ScalarEvent):
            refused = "a key must be text; write KEY: VALUE"
        else:
            return super().compose_node(parent, index)
        raise ComposerError(None, None, refused, event.start_mark)


class _PlainResolver(VersionedResolver):
    """Without what ruamel.yaml keeps of YAML 1.1 though a file says nothing of it: dates, 1_000 and '='."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        name = str(tag).rpartition(":")[2]
        is_text = name in ("timestamp", "value") or (name in ("int", "float") and "_" in value)
        return self.DEFAULT_SCALAR_TAG if is_text else tag
