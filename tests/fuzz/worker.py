"""Feeds one target for `tools/fuzz`; a process of its own, since libFuzzer ends it when it is done.

    python -m tests.fuzz.worker TARGET COUNTER [libFuzzer's options] CORPUS...

Each input that reaches code that none before it did is kept in the first CORPUS. How many were fed,
and the resident bytes now and near the start, stand in the file COUNTER, for whoever watches.
"""

import os
import struct
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cw", "h11"]):
    from tests.fuzz.targets import TARGETS

COUNTER = struct.Struct("<QQQ")
NOTE_EVERY = 500
WARM_INPUTS = 5_000
"""After so many, caches and allocators have what they keep: growth counts from here."""


def resident_bytes() -> int:
    """Say how much memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Feed until libFuzzer has had enough."""
    name, counter_path, *options = sys.argv[1:]
    target = TARGETS[name]
    counter = os.open(counter_path, os.O_WRONLY | os.O_CREAT)
    fed = warm_bytes = 0

    def feed(data: bytes) -> None:
        nonlocal fed, warm_bytes
        fed += 1
        target.feed(data)
        if fed % NOTE_EVERY == 0:
            now_bytes = resident_bytes()
            if fed == WARM_INPUTS or not warm_bytes:
                warm_bytes = now_bytes
            os.pwrite(counter, COUNTER.pack(fed, warm_bytes, now_bytes), 0)

    atheris.Setup([sys.argv[0], *options], feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
