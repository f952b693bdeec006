"""Opening files that this program writes: never through a link, and never a file of another user.

In a folder that several people write to, somebody could put a link or a prepared file under a name that is known
before. Then this program would overwrite what the link points to, or hand over what it writes.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Final

_OF_THE_SYSTEM: Final = ("/dev", "/dev/fd", "/proc/self/fd")
"""Folders whose links the system makes: `/dev/stdout`, a pipe of the shell."""


class NotOurs(OSError):
    """The file is a link, or another user's. Its `strerror` says which, and what to do."""


def open_owned(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open *path* as `os.open` does, and return the descriptor, which programs that are started do not get.

    With `O_TRUNC` the file is emptied after it was found to be ours. Raises `NotOurs`, and `OSError` of the system.
    """
    follow = 0 if str(path.parent) in _OF_THE_SYSTEM else os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags & ~os.O_TRUNC | follow | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise NotOurs(errno.ELOOP, "it is a link; name the file itself", str(path)) from None
        raise
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            if status.st_uid != os.geteuid():
                raise NotOurs(errno.EPERM, "it belongs to another user; name another file", str(path))
            if flags & os.O_TRUNC:
                os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_owned(path: Path) -> None:
    """Raise `NotOurs` if *path* is a link, or another user's, before a library opens it by its name.

    root may use a file of another user. Nothing is said of a path where nothing is.
    """
    try:
        status = path.lstat()
    except OSError:
        return
    if stat.S_ISLNK(status.st_mode):
        raise NotOurs(errno.ELOOP, "it is a link; name the file itself", str(path))
    if os.geteuid() not in (0, status.st_uid):
        raise NotOurs(errno.EPERM, "it belongs to another user; name another file", str(path))


def new_beside(path: Path) -> tuple[int, Path]:
    """Create a file with a name that nobody can know before, beside *path*. Return its descriptor and its path.

    Only its owner can read it. Raises `OSError`.
    """
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    return os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), new
