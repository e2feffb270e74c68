"""Run the scheduler of production against a seeded world in virtual time.

The same arguments give the same result, byte for byte (with --repeatable, which leaves out the time
that it took). Latency objectives, models and devices are described by options; the paper's figures
and our goals are run by name.

Examples:
  cw simulate --profile v100 --models 15 --rate 600 --slo 100ms
  cw simulate --profile h100 --models 15 --rate 7500 --slo 25ms --compare default,clockwork
  cw simulate --profile h100 --models 15 --slo 25ms --sweep rate=2000,4000,6000 --out plots
  cw simulate --experiment fig5 --quick --out plots
"""

from cw.sim.command import add_arguments, run

__all__ = ["add_arguments", "run"]
