"""One thread with one asyncio loop, begun at the first coroutine and ended once."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from webapp.errors import ShuttingDown

if TYPE_CHECKING:
    import asyncio

Answer = TypeVar("Answer")


class LoopThread:
    """Safe from any thread. After :meth:`close` everything raises ShuttingDown."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def is_running(self) -> bool:
        return self._loop is not None and not self._is_closed

    def submit(self, coroutine: Coroutine[Any, Any, Answer]) -> Future[Answer]:
        import asyncio

        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())
        except BaseException:
            coroutine.close()
            raise

    def close(self, last: Coroutine[Any, Any, None], timeout_s: float) -> None:
        """Runs ``last``, then ends loop and thread; the second call does nothing."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            loop, thread = self._loop, self._thread
        if was_closed or loop is None or thread is None:
            last.close()
            return
        import asyncio

        try:
            asyncio.run_coroutine_threadsafe(last, loop).result(timeout_s)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout_s)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._lock:
            if self._is_closed:
                raise ShuttingDown()
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            _end_tasks(loop)
            loop.close()


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    import asyncio

    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
