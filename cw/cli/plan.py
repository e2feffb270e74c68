"""Find the smallest number of GPUs that answers a trace's requests in time.

The busiest stretch of the trace is simulated with the scheduler of production on more and more
GPUs. Printed are the number, how far the load may grow on it, what breaks first when it does
(compute, PCIe or memory), and what a tighter SLO costs. docs/plan.md has the format of the models'
file, and what is modelled and what is not.

Examples:
  cw plan --trace requests.csv --slo 100ms --models models.toml --out plots
  cw plan --trace requests.csv --slo 100ms --models status.json --target 99%   (cw status --json)
  cw plan --trace poisson --rate 2000 --slo 50ms --models 100 --profile v100 --window 20s
"""

from cw.sim.sizing_command import add_arguments, run

__all__ = ["add_arguments", "run"]
