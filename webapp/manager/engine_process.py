"""The engine process: its main function, and how it dies.

It is a fresh interpreter (see :mod:`.engine_client`): it inherits no socket, database handle or lock of the web
process, does not run that process's main module, and gets its commands on standard input and answers on what was
standard output. Anything a library prints goes to standard error with the last words.

It ends by itself when the web process is gone, however that died: its commands are read by a thread of their own, and
the end of that pipe ends the process at once, also in the middle of a load.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
import sys
import threading
import traceback

from webapp.manager.engine_loop import EngineLoop
from webapp.manager.messages import Message, pack, read_command, write_frame

NAME = "roost-engine"


def main() -> None:
    """Never returns: the process ends without unwinding native libraries, whose teardown may hang or crash."""
    ignore_interrupts()
    commands, replies = take_over_streams()
    faulthandler.enable()
    describe_process()
    writing = threading.Lock()

    def send(message: Message) -> None:
        frame = pack(message)
        with writing:
            write_frame(replies, frame)

    loop = EngineLoop(send)
    threading.Thread(target=read_commands, args=(commands, loop), name="roost-engine-commands", daemon=True).start()
    exit_code = 0
    try:
        loop.run()
    except BaseException:
        traceback.print_exc()
        exit_code = 1
    sys.stderr.flush()
    os._exit(exit_code)


def read_commands(commands: io.FileIO, loop: EngineLoop) -> None:
    try:
        while True:
            loop.put(read_command(commands))
    except (EOFError, OSError):
        os._exit(0)  # the web process closed the pipe or is gone
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ignore_interrupts() -> None:
    """Ctrl-C reaches the whole terminal group; the web process decides and sends Shutdown."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def take_over_streams() -> tuple[io.FileIO, io.FileIO]:
    """The two pipes, moved away from where ``print`` and ``input`` of a library would reach them."""
    commands, replies = os.dup(0), os.dup(1)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(commands, os.O_BINARY)
        msvcrt.setmode(replies, os.O_BINARY)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return io.FileIO(commands, "rb"), io.FileIO(replies, "wb")


def describe_process() -> None:
    """Linux: a name for ``ps``, and a word to the kernel that in need of memory this process goes, not the server."""
    for name, value in (("comm", NAME), ("oom_score_adj", "500")):
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(value)
