"""``python -m cw.sim``: what ``cw simulate`` is, without the other commands."""

from cw.sim.command import main

if __name__ == "__main__":  # processes of a pool import this module, too
    raise SystemExit(main())
