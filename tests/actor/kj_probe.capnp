@0xd3b7f0a1c2e49586;
# A tiny interface with one method per behaviour that tests/actor/test_kj_*.py need.

interface Probe {
  echo @0 (data :Data) -> (data :Data);
  # Answers in its first step.

  echoLater @1 (data :Data) -> (data :Data);
  # Answers from a Trio task, after one checkpoint.

  note @2 (number :UInt64) -> ();
  # Records the number in its first step, in order of arrival.

  nap @3 (milliseconds :UInt64, data :Data) -> (data :Data);
  # Sleeps, then answers with what it was given.

  fail @4 (text :Text) -> ();
  # Raises ValueError.

  waitTooEarly @5 () -> ();
  # Breaks the rule: sleeps in its first step.

  counts @6 () -> (begun :UInt64, cancelled :UInt64, open :UInt64, openPeak :UInt64);
  # Naps begun and cancelled, calls open now, and the most that ever were at once.

  probe @7 () -> (probe :Probe);
  # Hands out a second capability, for pipelined calls.

  napProbe @8 (milliseconds :UInt64) -> (probe :Probe);
  # The same after a while: pipelined calls wait for it in the library.
}
