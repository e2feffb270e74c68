"""A Cap'n Proto call while it is served: what runs when, and when its memory is gone.

**Order.** Trio shuffles its tasks, so a task per call would lose the order in which calls came.
A handler's first step therefore runs at once, inside the C++ library's own turn, in the order of
arrival on the connection.  A handler that never waits ends there and costs no Trio task.  One that
must wait does ``await detached()`` before anything else that waits; the rest of it then runs as a
Trio task of its connection, in a cancel scope of its own.  Any other first wait is an error,
because Trio would wake the wrong task.

**Memory.** When the caller cancels or vanishes, the library frees the call's memory at once:
``ctx``, ``ctx.params`` and whatever was read from them then dangle, and touching them kills the
process.  So nothing of the call may be used after ``detached()`` before asking
:func:`call_alive`, and nothing of it may be handed to anybody.

:func:`served` builds handlers that keep both rules by construction; use it, and write a
handler by hand only where it does not fit::

    class ExecutorGate(schema.Executor.Server):
        submit_context = served(read_action, lambda gate, action: gate.inbox.put_nowait(action))
        infer_context = served(read_infer, lambda gate, m: gate.ref.ask(m), write_outputs)

    async def by_hand_context(self, ctx):
        message = read_infer(ctx.params)   # first step: plain values, while the memory is there
        await detached()
        reply = await self.ref.ask(message)
        if call_alive():
            write_outputs(ctx.results, reply)

What one call costs with and without a Trio task: see ``kj_loop``.
"""

import logging
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import closing, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from cw.errors import CwError

if TYPE_CHECKING:
    from cw.rpc.kj_loop import KjLoop

log = logging.getLogger(__name__)

_GateT = TypeVar("_GateT")
_MessageT = TypeVar("_MessageT")
_ReplyT = TypeVar("_ReplyT")

ERROR_TEXT_MAX_CHARS: Final = 1000
"""How much of an error's text crosses the wire."""

_call: ContextVar["ServerCall | None"] = ContextVar("kj_call", default=None)


def call_alive() -> bool:
    """Tell whether the call being served may still be touched.

    False once its caller cancelled or vanished: then ``ctx`` is freed memory.  The answer holds
    until the next ``await``.  True outside of a served call.
    """
    call = _call.get()
    return call is None or call.is_alive


class _Detach:
    """What a handler yields to leave the first step; recognised by identity."""

    def __await__(self) -> Generator[object, None, None]:
        call = _call.get()
        if call is not None and call.is_in_first_step:
            yield self


_DETACH: Final = _Detach()


def detached() -> Awaitable[None]:
    """End a handler's first step: what follows runs as a Trio task of the call's connection.

    To be awaited before anything else that waits, with no nursery and no cancel scope open.
    Elsewhere (already detached, or the handler called straight from a test) it does nothing.
    """
    return _DETACH


@types.coroutine
def _resumed(
    coro: Coroutine[Any, Any, object],
) -> Generator[Any, Any, object]:
    """Drive a coroutine on that has already taken its first step elsewhere."""
    return (yield from coro.__await__())


class Outcome:
    """What asyncio's Future and Task have in common, as far as pycapnp uses them."""

    _asyncio_future_blocking = False  # asyncio.gather(), at the loop's end, looks for these two.
    _cancel_message = None

    def __init__(self, loop: "KjLoop") -> None:
        """Begin unfinished; done callbacks will run in ``loop``'s turns."""
        self._loop = loop
        self._is_done = False
        self._is_cancelled = False
        self._value: object = None
        self._error: Exception | None = None
        self._callbacks: list[Callable[[Any], object]] = []

    def get_loop(self) -> "KjLoop":
        """Return the loop that this belongs to."""
        return self._loop

    def done(self) -> bool:
        """Tell whether there is a result, an error or a cancellation."""
        return self._is_done

    def cancelled(self) -> bool:
        """Tell whether it ended by cancellation."""
        return self._is_cancelled

    def exception(self) -> Exception | None:
        """Return the error that it ended with, if any."""
        return self._error

    def result(self) -> object:
        """Return the value, or raise the error."""
        if self._error is not None:
            raise self._error
        return self._value

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Any = None) -> None:
        """Call ``callback(self)`` in a later turn of the loop, once this is done."""
        if self._is_done:
            self._loop.call_soon(callback, self)
        else:
            self._callbacks.append(callback)

    def _finish(
        self,
        value: object = None,
        *,
        error: Exception | None = None,
        is_cancelled: bool = False,
    ) -> None:
        self._is_done, self._value, self._error = True, value, error
        self._is_cancelled = is_cancelled
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._loop.call_soon(callback, self)


class ServerCall(Outcome):
    """One call from a peer: pycapnp takes it for an asyncio Task.

    Attributes:
        is_alive: False from the moment that the library frees the call's memory.
        is_in_first_step: True while the handler runs inside the library's turn.
    """

    def __init__(
        self, loop: "KjLoop", coro: Coroutine[Any, Any, object], nursery: trio.Nursery
    ) -> None:
        """Run the first step of ``coro`` now; should it detach, the rest runs in ``nursery``."""
        super().__init__(loop)
        self.is_alive = True
        self.is_in_first_step = True
        self._name: str = getattr(coro, "__qualname__", repr(coro))
        token = _call.set(self)
        try:
            trap = coro.send(None)
        except StopIteration as stop:
            self._finish(stop.value)
        except Exception as error:
            self._fail(error)
        else:
            if trap is _DETACH:
                self._detach(coro, nursery)
            else:
                coro.close()
                self._fail(
                    RuntimeError(
                        f"{self._name} waited for {trap!r} in its first step; "
                        "it must `await detached()` before it waits for anything"
                    )
                )
        finally:
            self.is_in_first_step = False
            _call.reset(token)

    def cancel(self, msg: object = None) -> None:
        """Take note that the caller gave up or vanished: the call's memory is gone now."""
        self.is_alive = False
        if not self._is_done:
            self._loop.call_soon(self._scope.cancel)  # Not inside the library's own turn.

    def _detach(self, coro: Coroutine[Any, Any, object], nursery: trio.Nursery) -> None:
        self._scope = trio.CancelScope()
        try:
            nursery.start_soon(self._run, coro, name=self._name)
        except RuntimeError:  # The nursery has closed: the connection, or the loop, is ending.
            coro.close()
            self._finish(is_cancelled=True)

    async def _run(self, coro: Coroutine[Any, Any, object]) -> None:
        _call.set(self)
        try:
            if self.is_alive:
                with self._scope:
                    self._finish(await _resumed(coro))
            else:
                coro.close()  # Trio would run it to its next checkpoint before cancelling it.
        except Exception as error:
            self._fail(error)
        finally:
            if not self._is_done:
                self._finish(is_cancelled=True)
            self._loop.call_soon(self._forget)

    def _fail(self, error: Exception) -> None:
        """End with ``error``: logged here with its traceback, told to the peer without it."""
        if isinstance(error, CwError):
            log.debug("call refused call=%s error=%r", self._name, error)
        elif self.is_alive:
            log.error("call failed call=%s", self._name, exc_info=error)
        else:
            log.warning("call failed after its caller left call=%s", self._name, exc_info=error)
        self._finish(error=error_for_peer(error))

    def _forget(self) -> None:
        """Drop the error: a traceback must not keep a finished call's objects alive."""
        self._value = self._error = None


def error_for_peer(error: Exception) -> Exception:
    """Return an error that pycapnp will print as ``Type: text``, with no traceback and no cause."""
    text = str(error)
    if len(text) > ERROR_TEXT_MAX_CHARS:
        text = text[:ERROR_TEXT_MAX_CHARS] + "..."
    return _bare_type(type(error).__name__)(text)


@lru_cache(maxsize=64)
def _bare_type(name: str) -> type[Exception]:
    # pycapnp formats with `traceback`, which omits the module of built-in exceptions alone.
    return type(name, (Exception,), {"__module__": "builtins"})


def served(
    read: Callable[[Any], _MessageT],
    perform: Callable[[_GateT, _MessageT], Awaitable[_ReplyT] | _ReplyT],
    write: Callable[[Any, _ReplyT], object] | None = None,
) -> Callable[[_GateT, Any], Coroutine[Any, Any, None]]:
    """Build a ``NAME_context`` method that cannot misuse the call's order or memory.

    Args:
        read: Copies the params reader into a plain message; runs in order of arrival.
        perform: Is called with the gate and the message, in order of arrival too.  It returns
            the reply, or an awaitable of it, which is awaited in the call's own Trio task and
            cancelled when the caller leaves.  An ``async def`` runs wholly in that task: what
            must keep the order of arrival belongs in a plain function that returns an awaitable.
        write: Fills the results builder from the reply; not called when the caller has left.
            None for methods without results.

    Returns:
        The method, to be assigned to ``NAME_context`` in a pycapnp Server class.
    """

    async def handler(gate: _GateT, ctx: Any) -> None:
        reply = perform(gate, read(ctx.params))
        if isinstance(reply, Awaitable):
            with closing(reply) if isinstance(reply, Coroutine) else nullcontext():
                await detached()  # The call may end here: a coroutine must not be left unbegun.
                reply = await reply
            if not call_alive():
                return
        if write is not None:
            write(ctx.results, reply)

    return handler
