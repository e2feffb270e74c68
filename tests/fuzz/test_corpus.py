"""What fuzzing has found so far, fed again; and that the tool itself would notice what is wrong."""

import pytest

from tests.fuzz.seeds import CORPUS, seeds
from tests.fuzz.targets import TARGETS, Target, shares, unexpected


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_what_was_interesting_once_is_still_answered(name):
    """Each kept input reached code that no other did: here the readers' odd ways are walked."""
    kept = sorted((CORPUS / name).iterdir()) if (CORPUS / name).exists() else []
    inputs = [*seeds()[name], *(path.read_bytes() for path in kept)]
    findings = {
        at: finding for at, data in enumerate(inputs) if (finding := unexpected(name, data))
    }

    assert not findings
    assert kept, "nothing is kept: run `tools/fuzz --keep`"


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_fuzzing_begins_with_what_is_sound(name):
    """Mutations of garbage are garbage: they would never get past the first check."""
    assert all(TARGETS[name].feed(data) for data in seeds()[name])


def test_an_error_that_nobody_expects_is_a_finding(monkeypatch):
    """A tool that swallowed it would report a million inputs and no finding, always."""

    def broken(data):
        raise KeyError(data)

    monkeypatch.setitem(TARGETS, "broken", Target(broken, (ValueError,), 0.1))

    assert isinstance(unexpected("broken", b"x"), KeyError)


def test_inputs_are_dealt_by_share():
    """The slow targets get fewer, and none gets nothing."""
    dealt = shares(1_000_000, tuple(TARGETS))

    assert sum(dealt.values()) == pytest.approx(1_000_000, abs=len(dealt))
    assert min(dealt.values()) > 10_000
    assert dealt["messages"] > dealt["connection"]
