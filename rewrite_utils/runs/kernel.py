"""How a notebook's kernel talks: over sockets in a folder of its own, or over ports."""

import contextlib
import socket
import tempfile
from collections.abc import Iterator

from traitlets.config import Config


@contextlib.contextmanager
def sockets() -> Iterator[Config]:
    """Settings of a kernel that talks over sockets in a folder of its own, or over ports where no
    folder takes a socket (a path of over a hundred bytes, a file system without them).

    With ports, two kernels that start at once can take each other's, and one's series never ends.
    """
    for place in (tempfile.gettempdir(), "/tmp"):
        with tempfile.TemporaryDirectory(prefix="rewrite-kernel-", dir=place) as folder:
            if takes_sockets(folder):
                yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
                return
    yield Config()


def takes_sockets(folder: str) -> bool:
    """Whether a socket with a name as long as a kernel's can be made in a folder."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as tried:
        try:
            tried.bind(f"{folder}/kernel-12345")
        except OSError:
            return False
    return True
