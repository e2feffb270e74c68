"""The deciding half of cw: pure, in virtual or real time alike (see design/0001)."""
