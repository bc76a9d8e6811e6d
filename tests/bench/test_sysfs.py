from __future__ import annotations

from pathlib import Path

import pytest

from edgemtl.bench.sysfs import field, number, numbered, text


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"schedutil\n", "schedutil"), (b"Jetson\0", "Jetson"), (b"", None), (b"\n", None)],
)
def test_text_is_without_its_end_and_never_empty(
    tmp_path: Path, content: bytes, expected: str | None
) -> None:
    (tmp_path / "a").write_bytes(content)
    assert text(tmp_path / "a") == expected


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    for path in tmp_path / "missing", tmp_path:
        assert text(path) is None
        assert number(path) is None
        assert field(path, "a") is None


@pytest.mark.parametrize(
    ("content", "expected"), [("1500", 1.5), ("-250", -0.25), ("1500 ma", None), ("", None)]
)
def test_a_number_has_its_unit(tmp_path: Path, content: str, expected: float | None) -> None:
    (tmp_path / "a").write_text(content)
    assert number(tmp_path / "a", 1e-3) == expected


def test_a_field_is_the_first_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('cpu : one\ncpu : two\nNAME="Debian"\nempty:\n')
    assert field(tmp_path / "a", "cpu") == "one"
    assert field(tmp_path / "a", "NAME", separator="=") == "Debian"
    assert field(tmp_path / "a", "empty") is None


def test_numbered_names_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in "hwmon10", "hwmon9", "hwmon0":
        (tmp_path / name).mkdir()
    assert [path.name for path in numbered(tmp_path, "hwmon*")] == ["hwmon0", "hwmon9", "hwmon10"]
