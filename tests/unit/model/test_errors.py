from __future__ import annotations

import inspect
import pickle

import pytest

from hybridvif.model import errors
from hybridvif.model.errors import (
    REFUSALS,
    BridgeMissing,
    ConfigurationError,
    HybridVifError,
    InvalidInput,
    PlugFailed,
    PreconditionError,
    Refused,
    UnplugFailed,
)
from hybridvif.model.report import Report, Status

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, HybridVifError)]
every_error = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)


@every_error
def test_error_is_rebuilt_from_its_message(cls: type[HybridVifError]) -> None:
    error = cls("qbr5f2c0e1a-7b exists but is a dummy link; remove it")
    again = cls(str(error))
    assert type(again) is cls
    assert str(again) == str(error)
    assert again.args == error.args == (str(error),)


@every_error
def test_error_can_be_pickled(cls: type[HybridVifError]) -> None:
    again = pickle.loads(pickle.dumps(cls("Why.")))
    assert type(again) is cls
    assert str(again) == "Why."


@every_error
def test_error_can_have_a_report(cls: type[HybridVifError]) -> None:
    report = Report(port_id="5f2c0e1a-7b00-4c00-8000-000000000001", status=Status.INCOMPLETE)
    assert cls("Why.", report).report is report
    assert cls("Why.").report is None
    assert cls().args == ("",)


@every_error
def test_error_has_a_code_and_a_docstring(cls: type[HybridVifError]) -> None:
    assert cls.code == cls.code.lower().strip()
    assert (cls.__doc__ or "").rstrip().endswith(".")


def test_error_codes_are_unique() -> None:
    assert len({cls.code for cls in ALL}) == len(ALL)


def test_module_docstring_names_every_error() -> None:
    assert not [cls.__name__ for cls in ALL if cls.__name__ not in (errors.__doc__ or "")]


def test_refusal_is_a_plug_and_an_unplug_failure() -> None:
    for cls in REFUSALS.values():
        assert issubclass(cls, Refused)
        assert issubclass(cls, PlugFailed)
        assert issubclass(cls, UnplugFailed)


def test_refusals_table_is_complete() -> None:
    assert {code: cls for code, cls in REFUSALS.items() if cls.code == code} == REFUSALS
    assert set(REFUSALS.values()) == {cls for cls in ALL if issubclass(cls, Refused)}


def test_missing_bridge_is_a_precondition_error() -> None:
    assert issubclass(ConfigurationError, PreconditionError)
    assert issubclass(BridgeMissing, PreconditionError)
    assert issubclass(BridgeMissing, PlugFailed)
    assert not issubclass(PreconditionError, PlugFailed)


def test_invalid_input_is_a_value_error() -> None:
    assert issubclass(InvalidInput, ValueError)
    assert not issubclass(InvalidInput, PlugFailed | UnplugFailed)
