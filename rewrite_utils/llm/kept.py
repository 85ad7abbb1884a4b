"""One vLLM for all notebooks of a series, since loading takes longer than most of what it is asked.

`keeping` opens a folder of sockets and names it in the environment of the kernels. The first kernel
that needs a model starts its process there, later ones join it; with the folder's owner it ends.
"""

import contextlib
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

FOLDER = "REWRITE_UTILS_KEPT"
"""The environment variable that names the folder."""
LIFE = "life"
"""The socket there whose end is everybody's end."""
CALLERS = 16
"""Connections that may wait to be taken."""


@contextlib.contextmanager
def keeping(folder: str) -> Iterator[None]:
    """While it is open, processes started below this one keep in ``folder`` what they load; with
    "" each has its own."""
    if not folder:
        yield
        return
    with listening(Path(folder, LIFE)):
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[FOLDER]


def place(settings: Mapping[str, Any], environment: Mapping[str, str]) -> Path | None:
    """The socket of the process with these settings; None where nothing is kept."""
    if not environment.get(FOLDER):
        return None
    told = json.dumps([settings, environment.get("OMP_NUM_THREADS")], sort_keys=True)
    return Path(environment[FOLDER], hashlib.sha256(told.encode()).hexdigest()[:16])


def call(path: Path) -> Connection | None:
    """A connection to who listens there; None if nobody does."""
    calling = socket.socket(socket.AF_UNIX)
    try:
        calling.connect(str(path))
    except OSError:
        calling.close()
        return None
    return Connection(calling.detach())


def join(kept: Path) -> tuple[Connection, int] | None:
    """A connection to the process that is kept there, and its id, once it has loaded; None if there
    is none, or none any more."""
    connection = call(kept)
    if connection:
        try:
            return connection, connection.recv()[1]
        except (EOFError, OSError):  # it was just dying
            connection.close()
    kept.unlink(missing_ok=True)
    return None


def listening(path: Path) -> socket.socket:
    """A socket that takes connections; OSError where there is one already."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        listener.listen(CALLERS)
    except OSError:
        listener.close()
        raise
    return listener


def end_with(kept: Path) -> None:
    """Let this process end when the owner of the folder does, however that happens."""
    life = call(kept.with_name(LIFE))

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            if life is not None:
                life.recv()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def requests(first: Connection, listener: socket.socket | None) -> Iterator[tuple[Connection, Any]]:
    """What every caller asks, and whom to answer; one who comes is told this process's id, one who
    says None or is gone is dropped. Ends with the last caller where no other can come."""
    callers = [first]
    while callers or listener:
        for ready in wait([*callers, *([listener] if listener else [])]):
            if isinstance(ready, socket.socket):
                callers.append(Connection(ready.accept()[0].detach()))
                with contextlib.suppress(OSError):  # gone already: found out when it is read
                    callers[-1].send((0, os.getpid()))
                continue
            caller = next(one for one in callers if one is ready)
            request = None
            with contextlib.suppress(EOFError, OSError):
                request = caller.recv()
            if request is None:
                callers.remove(caller)
                caller.close()
            else:
                yield caller, request
