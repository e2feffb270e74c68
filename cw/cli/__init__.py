"""The command line: one file per command; `compose.py` alone puts the parts together."""
