"""``python -m cw.sim``: one run from the command line."""

from cw.sim.runner import main

raise SystemExit(main())
