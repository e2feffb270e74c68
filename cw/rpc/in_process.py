"""Addresses of actors in this very process: ``memory:NAME``.

`client.py` and `server.py` know them as they know ``tcp:`` and ``unix:``, so that a role is started
alike whether its peers are processes of their own or tasks beside it. What is told is handed over
as it is: nothing is written, sent, woken up for and read again.

There is one network of them to a Trio run.
"""

from typing import Final, NoReturn

import trio

from cw.rpc.memory import MemoryNetwork
from cw.rpc.ports import ControllerPort, InferencePort

SCHEME: Final = "memory:"

_network: Final[trio.lowlevel.RunVar[MemoryNetwork | None]] = trio.lowlevel.RunVar("memory", None)


def is_in_process(address: str) -> bool:
    """Tell whether an address is of an actor in this process."""
    return address.startswith(SCHEME)


def network_here() -> MemoryNetwork:
    """Return this run's network."""
    network = _network.get()
    if network is None:
        network = MemoryNetwork(is_instant=True)
        _network.set(network)
    return network


async def serve_here(
    address: str,
    actor: ControllerPort | InferencePort,
    task_status: trio.TaskStatus[str],
) -> NoReturn:
    """Let whoever dials `address` in this run reach `actor`, until cancelled."""
    here = network_here()
    here.serve(address, actor)
    try:
        task_status.started(address)
        await trio.sleep_forever()
    finally:
        here.withdraw(address)
