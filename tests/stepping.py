"""Driving a coroutine step by step: to cancel it, or to kill the process, at exactly its n-th suspension."""

import asyncio
import os
import signal


class At:
    """Awaits a coroutine; at its n-th suspension, counted from 1, does something and maybe throws into it."""

    def __init__(self, n, coroutine, act):
        self.n = n
        self.coroutine = coroutine
        self.act = act
        self.suspensions = 0

    def __await__(self):
        steps = self.coroutine.__await__()
        value = error = None
        while True:
            try:
                waits_for = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value
            value = error = None
            self.suspensions += 1
            if self.suspensions == self.n:
                error = self.act(waits_for)
                if error is not None:
                    continue
            try:
                value = yield waits_for
            except BaseException as thrown:
                error = thrown


def cancel_at(n, coroutine):
    """Cancel a coroutine at its n-th suspension, as `Task.cancel` does it."""

    def act(waits_for):
        if waits_for is not None:
            waits_for._asyncio_future_blocking = False
            waits_for.cancel()
        return asyncio.CancelledError()

    return At(n, coroutine, act)


def cancel_here_at(n, coroutine):
    """Cancel the very task that drives a coroutine, at its n-th suspension.

    The future that it waits for learns of it first, and its callbacks have run when the coroutine does: drivers of
    databases that clean up after themselves do so there.
    """

    def act(_waits_for):
        asyncio.current_task().cancel()

    return At(n, coroutine, act)


def cancel_task_at(n, coroutine):
    """Return a task that cancels itself at a coroutine's n-th suspension, and what drives it."""
    driven = cancel_here_at(n, coroutine)

    async def drive():
        return await driven

    return asyncio.create_task(drive()), driven


def kill_at(n, coroutine):
    """SIGKILL this very process at a coroutine's n-th suspension."""

    def act(_waits_for):
        os.kill(os.getpid(), signal.SIGKILL)

    return At(n, coroutine, act)
