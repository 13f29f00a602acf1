"""The lock of a file or folder, held by one process on any machine that sees it. Does not import JAX."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

# How a file system says that it has no locks: 524 is the kernel's own ENOTSUPP, from NFS and DVS; EBADF is what NFS
# says of a folder, which cannot be opened for writing as it wants.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, 524, errno.EBADF)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a folder, or of a file that is made if need be; dying gives it back too.

    Yields False where the file system has no locks, so that nobody is kept out.
    Raises BlockingIOError where another process has it and is not waited for, and OSError that names the path.
    """
    how = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT  # to be written, or NFS refuses to lock a file
    opened = os.open(path, how, 0o666)
    try:
        yield _lock(opened, path, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(opened)


def _lock(opened: int, path: Path, operation: int) -> bool:
    try:
        fcntl.flock(opened, operation)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise OSError(error.errno, f"cannot be locked ({error.strerror})", str(path)) from error
        return False
    return True
