"""YAML in, plain values out: numbers and words as YAML 1.2 has them, and a refusal that says where and what to type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_synth.config import load_experiment
from ray_synth.config.yaml import as_yaml, read_yaml
from ray_synth.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("-.5e-3", -0.0005),
        ("010", 10),
        ("0x1f", 31),
        ("0o10", 8),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("2026_01", "2026_01"),
        ("=", "="),
        ("true", True),
        ("FALSE", False),
        *[(word, word) for word in ("yes", "no", "on", "off", "y", "n", "Yes", "OFF")],
        ("~", None),
        ("null", None),
        ("", None),
        (".inf", float("inf")),
        ("[1, 2.0, a]", [1, 2.0, "a"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("&here 3", 3),
        ("{<<: {a: 1, b: 1}, b: 2}", {"a": 1, "b": 2}),
        ("%YAML 1.1\n---\nyes", True),
    ],
)
def test_plain_values(text: str, value: Any) -> None:
    read = read_yaml(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", ["line 3, column 1 ('a: 3')", 'stands twice: "a"', "remove one of them"]),
        ("a:\n  b: 1\n  b: 1\n", ["line 3, column 3", "stands twice"]),
        ("a: &n 1\nb: *n\n", ["line 2, column 4", "aliases (*name) are not allowed here", "base: FILE"]),
        ("a: &n {b: 1}\nc:\n  <<: *n\n", ["line 3, column 7", "aliases"]),
        ("a: !!python/object/apply:os.system ['true']\n", ["line 1, column 4", "tags", "python/object", "value alone"]),
        ("a: !mine 3\n", ["tags (!mine) are not allowed"]),
        ("? [1, 2]\n: 3\n", ["line 1, column 3", "a key must be text", "KEY: VALUE"]),
        ("? {a: 1}\n: 3\n", ["a key must be text"]),
        ("a: [1, 2\nb: 3\n", ["line 2", "sequence of line 1", "close the bracket"]),
        ("a: b: c\n", ["line 1, column 5", "goes in quotes"]),
        ("a: @b\n", ["line 1, column 4", "put the text in quotes"]),
        ("a: 'b\n", ["scalar of line 1", "close the quote"]),
        ("a:\n\tb: 1\n", ["line 2, column 1", "indent with spaces"]),
        ("a:\n  b: 1\n c: 2\n", ["line 3, column 2", "one indentation"]),
        ("a: 1\n---\nb: 2\n", ["line 2, column 1", "leave one document"]),
        ("a: \x00\n", ["#x0000", "position 3"]),
        (f"a: {'9' * 5000}\n", ["4300 digits"]),
        ("[" * 5000, ["recursion"]),
    ],
)
def test_what_is_not_plain_is_refused_with_its_place_and_the_cure(
    text: str, expected: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"experiment\.yaml is not a plain YAML file: ") as error:
        load_experiment(file)
    for words in expected:
        assert words in str(error.value)
    assert "\n" not in str(error.value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None)
@given(value=PLAIN | st.sampled_from(["1_000", "2026-01-31", "0o10", "12e45", "yes", "=", "~", "1:30", "<<", "a: b"]))
def test_what_is_written_reads_back(value: Any) -> None:
    again = read_yaml(as_yaml({"value": value}))["value"]
    assert (again, type(again)) == (value, type(value))
