"""A short address for a Unix socket whose path is too long for one."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

LONGEST: Final = 100
"""Bytes. The kernel's limit is 107 on Linux and 103 on macOS."""


def short_path(path: Path) -> Path:
    """Return *path*, or where it is too long for a socket, another path to the same file.

    The other path leads through a symbolic link to the folder of *path*. The link is in a folder below the temporary
    directory that only this user can enter. A link that is gone is made again by the next call.

    Raises `OSError` where the link cannot be made, `PermissionError` where others can enter that folder.
    """
    if len(os.fsencode(path)) <= LONGEST:
        return path
    folder = path.parent.resolve()
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    link = _links() / digest
    with suppress(FileExistsError):
        link.symlink_to(folder, target_is_directory=True)
    return link / path.name


def is_private(folder: Path) -> bool:
    """True for a real folder of this user that nobody else can enter: anybody may take a name under /tmp."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return (found.st_mode & 0o170077) == 0o040000 and found.st_uid == os.geteuid()


def _links() -> Path:
    """The folder of the links, made where it is missing."""
    name = f"tokenferry-{os.geteuid()}"
    folder = Path(tempfile.gettempdir(), name)
    if len(os.fsencode(folder)) > LONGEST // 2:
        folder = Path("/tmp", name)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not is_private(folder):
        raise PermissionError(f"{folder} is not a directory which only this user can enter; remove it")
    return folder
