"""How processes on this machine talk: over sockets in a folder of their own, a kernel also over ports."""

import contextlib
import socket
import tempfile
from collections.abc import Iterator

from traitlets.config import Config


@contextlib.contextmanager
def sockets() -> Iterator[Config]:
    """Settings of a kernel that talks over sockets in a folder of its own, or over ports where no
    folder takes a socket.

    With ports, two kernels that start at once can take each other's, and one's series never ends.
    """
    with socket_folder("rewrite-kernel-") as folder:
        ipc = {"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}}
        yield Config(ipc if folder else {})


@contextlib.contextmanager
def socket_folder(prefix: str) -> Iterator[str]:
    """A new folder that takes sockets; "" where none does (a path of over a hundred bytes, a file
    system without them)."""
    for place in (tempfile.gettempdir(), "/tmp"):
        with tempfile.TemporaryDirectory(prefix=prefix, dir=place) as folder:
            if takes_sockets(folder):
                yield folder
                return
    yield ""


def takes_sockets(folder: str) -> bool:
    """Whether a socket with a name as long as a kernel's can be made in a folder."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as tried:
        try:
            tried.bind(f"{folder}/kernel-12345")
        except OSError:
            return False
    return True
