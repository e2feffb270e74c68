"""``python -m tests.softcuda cw ...``: the `cw` command, with a card in software for a GPU.

The software driver has no torch, so graphs are captured by `host_graphs.py` here; all else is as
users run it. The environment says where the driver is (`card.environment_with_card`).
"""

import functools
import sys

from cw.cli import cluster, main


def use_host_graphs():
    """Have the device capture what the software driver can run."""
    from cw.devices.cuda import opening
    from tests.softcuda.host_graphs import HostGraphs

    opening.open_cuda_device = functools.partial(opening.open_cuda_device, make_graphs=HostGraphs)


if __name__ == "__main__":
    # `cw` is a word of its own, since tests find a cluster's processes by it.
    own, role, *_ = sys.argv[1:]
    assert own == "cw", __doc__
    if role == "executor":
        use_host_graphs()
    cluster.COMMAND = (sys.executable, "-m", "tests.softcuda", "cw")
    sys.exit(main.main(sys.argv[2:]))
