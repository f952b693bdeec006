"""The embedded server: a private Valkey for one data directory, used when no broker is configured.

The directory is the whole address. Every process that names the same directory uses the same server; the first one
starts it. What is in the directory (mode 0700, as is everything the server writes into it):

    valkey.conf     the server's configuration and its password; mode 0600, rewritten at every start
    valkey.sock     the Unix socket, mode 0700; there is no TCP listener. Where the path would be too long for a
                    socket, a symbolic link to one in a private directory under the temporary directory
    valkey.lock     flocked by the process that starts the server, then by the server for as long as it lives
    valkey.pid      the server's process id
    valkey.log      the server's own log; it holds no data and no password
    appendonlydir/  the data, an append-only file flushed to disk every second

The lock makes this safe. The server inherits it, so the kernel releases it when the server dies, however it dies. A
free lock means no server; a held one means that there is a server, or will be in a moment. Two servers never share one
append-only file, and a process id alone is never trusted.

Limits. A crash of the host (not of the server) may lose about the last second of writes. The lock needs a local file
system. Linux and macOS only: elsewhere, and for more than one host, configure a broker.
"""

# Relative, so that a process without the rest of tokenferry can import this folder by itself.
from .addresses import Embedded
from .errors import EmbeddedServerError, EmbeddedServerUnavailable
from .programs import server_program
from .serving import ensure, is_running, running, stop

__all__ = [
    "Embedded",
    "EmbeddedServerError",
    "EmbeddedServerUnavailable",
    "ensure",
    "is_running",
    "running",
    "server_program",
    "stop",
]
