"""A failing run says how it is had again, and can be cut down to what it takes to fail."""

import pytest

from cw.sim import runner, shrink
from cw.sim.checkers import InvariantBroken
from cw.sim.checkers.checker import Checker
from cw.units import MS
from tests.simulation.scenarios import scenario

pytestmark = pytest.mark.simulation

FOUR = (
    "die@100ms:on=0:for=50ms,slow@150ms:on=1:for=20ms:by=2,lag@200ms:for=10ms:by=1ms,"
    "skew@300ms:on=1:by=0.1ms"
)
TEXT = f"--executors 2 --rate 100 --seconds 0.4 --faults {FOUR}"


def test_only_what_a_failure_needs_is_left():
    """Of four faults two matter: whoever looks for the cause should see these two."""

    def needs_two(candidate):
        kinds = {fault.kind.value for fault in candidate.faults}
        return {"die", "lag"} <= kinds and candidate.duration_ns > 210 * MS

    smallest = shrink.shrink(scenario(TEXT), needs_two)

    assert [fault.kind.value for fault in smallest.faults] == ["die", "lag"]
    assert 210 * MS < smallest.duration_ns < 300 * MS


def test_what_needs_everything_stays_as_it_is():
    """A shrinker that returns a run which does not fail would be worse than none."""
    whole = scenario(TEXT)

    assert shrink.shrink(whole, lambda candidate: candidate == whole) is whole


def test_the_command_means_the_same_scenario():
    """It is pasted into a shell by whoever mends the bug; drawn faults must stand in it in full."""
    words = "--executors 2 --rate 100 --seconds 0.5 --seed 4 --faults random:4 --set margin=2ms"
    drawn = scenario(words)
    command = shrink.command_for(words.split(), drawn)

    assert "random" not in command
    assert scenario(command.removeprefix("python -m cw.sim ")) == drawn


class NoFault(Checker):
    """Takes every disturbance for a broken invariant."""

    def disturbed(self, what, *, now_ns, until_ns):
        raise InvariantBroken(what)


@pytest.fixture
def no_fault(monkeypatch):
    """Have every run fail at its first disturbance."""
    from cw.sim import world
    from cw.sim.checkers import Checkers

    monkeypatch.setattr(world, "checkers_for", lambda _: Checkers([NoFault()]))


@pytest.mark.usefixtures("no_fault")
def test_a_failing_run_tells_its_seed_and_its_faults():
    """Else a run of faults that were drawn in the night is lost."""
    with pytest.raises(InvariantBroken) as caught:
        runner.simulate(scenario(f"{TEXT} --seed 17"))
    notes = "\n".join(caught.value.__notes__)

    assert "seed 17" in notes
    assert "slow@150000000ns:on=1:for=20000000ns:by=2," in notes


@pytest.mark.usefixtures("no_fault")
def test_the_shrinker_prints_the_smallest_command(capsys):
    """From a whole command line to a command line: what a person does by hand otherwise."""
    assert shrink.main(TEXT.split()) == 0
    out, err = capsys.readouterr()

    assert "--faults slow@150000000ns:on=1:for=20000000ns:by=2\n" in out
    assert err.startswith("fault slow@150")


def test_a_run_that_does_not_fail_is_not_shrunk(capsys):
    """Silence would be taken for a smallest command that got lost."""
    assert shrink.main(["--rate", "10", "--seconds", "0.1"]) == 1
    assert "does not fail" in capsys.readouterr().err


def test_a_mistyped_argument_is_named_by_the_shrinker_too(capsys):
    """As by the command that it is pasted from."""
    assert shrink.main(["--rate", "10", "--slo", "soon"]) == 2
    assert "--slo" in capsys.readouterr().err
