from __future__ import annotations

import pickle

import pytest

from edgemtl.core.errors import EdgemtlError, UsageError, first_line, nearest


def everything(kind: type[EdgemtlError]) -> list[type[EdgemtlError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in everything(child))]


KINDS = everything(EdgemtlError)


def make(kind: type[EdgemtlError]) -> EdgemtlError:
    return kind("runs/a", expected="a run", found="nothing", fix="Train first.")


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_one_line_that_says_all(kind: type[EdgemtlError]) -> None:
    assert str(make(kind)) == "runs/a: expected a run, found nothing. Train first."


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_process_borders(kind: type[EdgemtlError]) -> None:
    error = make(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.where, copy.exit_code) == (str(error), error.where, error.exit_code)


def test_exit_codes_are_those_of_the_command_line() -> None:
    assert {kind.__name__: kind.exit_code for kind in KINDS} == {
        "EdgemtlError": 1,
        "TrainingError": 1,
        "UsageError": 2,
        "GateError": 3,
        "BundleError": 3,
        "SetupError": 4,
        "DataError": 5,
    }


def test_what_is_found_may_be_a_sentence() -> None:
    inner = UsageError("a", expected="b", found="c", fix="Do d.")
    assert str(UsageError("x", expected="y", found=str(inner), fix="Do z.")).endswith("Do d. Do z.")


def test_of_what_others_say_the_first_line_counts() -> None:
    assert first_line(ValueError("\none\ntwo")) == "one"
    assert first_line(AssertionError()) == "AssertionError"


def test_the_nearest_name_is_offered() -> None:
    assert nearest("dpeth", ["normals", "depth"]) == "Did you mean `depth`?"


def test_without_a_near_name_all_are_listed() -> None:
    assert nearest("x", ["normals", "depth"]) == "Known: depth, normals."
    assert nearest("x", []) == "Known: none."


def test_of_many_names_the_first_are_listed() -> None:
    names = [f"{index:02}" for index in range(30)]
    assert nearest("x", names) == f"Known: {', '.join(names[:20])} and 10 more."
