"""Goals: what the default policy is to reach, row by row, beside Clockwork's policy.

Set-up: the families of `families.py` under overload (`overload.py`), their SLO capacity
(`capacity.py`), and crowds of models and GPUs (`crowds.py`). Three seeds, 0.3 % noise, outliers of
+5 ms once in 10,000 actions, a margin of 0.5 ms, four links of 0.5 ms a request.

Nothing of this is published in this form; the figures beside ours are those of the probe, an
earlier simulation of another world (`reference.py`).

Ours deviates from the probe: bursts are those of `cw.workload.arrivals.Bursts` (the probe's
parameters are not known); mixed shapes ask for equal GPU time each, as the probe's did, at 1.3
times what full batches could do.

``--only`` takes sections (overload, capacity, alone, many, fleet, azure) and families.
"""

from typing import Final

from cw.sim.experiments import capacity, crowds, overload
from cw.sim.experiments.experiment import Options, Result, Table
from cw.sim.experiments.measures import described
from cw.sim.experiments.overload import FAMILIES
from cw.sim.experiments.pool import Pool
from cw.sim.plots import Chart

_OF_FAMILIES: Final = ("overload", "capacity")


def run(options: Options, pool: Pool) -> Result:
    """Run all goals, or those that are asked for."""
    sections = [*_OF_FAMILIES, *crowds.SECTIONS]
    chosen = options.chosen([*sections, *FAMILIES])
    families = [name for name in chosen if name in FAMILIES] or list(FAMILIES)
    wanted = [name for name in chosen if name in sections] or list(_OF_FAMILIES)
    tables: list[Table] = []
    charts: list[Chart] = []
    for name, part in (("overload", overload.run), ("capacity", capacity.run)):
        if name in wanted:
            more_tables, more_charts = part(options, pool, families)
            tables += more_tables
            charts += more_charts
    tables += crowds.run(options, pool, [name for name in wanted if name in crowds.SECTIONS])
    return Result(
        set_up=f"{described(options.seed_range(full=3))} (SLO capacity: "
        f"{described(options.seed_range(full=1))}); traffic of 10-60 s, or 120 SLOs where that is "
        "longer" + ("; shortened by --quick" if options.quick else ""),
        tables=tuple(tables),
        charts=tuple(charts),
    )
