"""``python -m cw`` is the ``cw`` command."""

from cw.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
