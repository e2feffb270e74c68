"""An executor that echoes, as a process: ``python -m tests.cluster.echo_executor ADDRESS [BYTES]``.

It prints the address to dial when it is ready. A batch whose ticket is 0 is never answered; BYTES
bounds one message.
"""

import sys

import trio

from cw import messages
from cw.config import LinkSettings
from cw.rpc.server import serve_executor


class EchoExecutor:
    """Gives each slot its inputs back."""

    async def infer(self, inputs):
        if not inputs.ticket:
            await trio.sleep_forever()
        slots = tuple(
            messages.SlotOutputs(position=it.position, outputs=it.tensors) for it in inputs.slots
        )
        return messages.BatchOutputs(
            outcome=messages.Outcome.OK, device_ns=1, batch_size=len(slots), slots=slots
        )

    def tell(self, cancels):
        """Take cancels in, and forget them."""


async def main(address, max_message_bytes):
    async with trio.open_nursery() as nursery:
        link = LinkSettings(max_message_bytes=max_message_bytes)
        print(await nursery.start(serve_executor, address, EchoExecutor(), link), flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 64 << 20)
