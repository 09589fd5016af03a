"""Where control sockets lie, who may reach them, and which of them somebody still answers.

A control socket is a Unix domain socket in a folder that its owner alone may enter (0700); the socket itself is 0600,
and the server asks the kernel who called (`rapini.node.control`). With `control = "auto"` its path is
`FOLDER/<cluster>-<node>-<pid>.sock`, where FOLDER is the first of

1. `$RAPINI_RUNTIME_DIR`, if set; then no other place is used or looked at;
2. `$XDG_RUNTIME_DIR/rapini`, if that directory is ours;
3. `/run/rapini` for root;
4. `/tmp/rapini-<uid>`.

A socket outlives a process that was killed. Nobody listens behind such a file, so a connection is refused at once: it
is *stale*, and the next node in the same folder removes it. To tell a stale socket from one that is bound and does not
listen yet, a socket gets its name (`rename`) only once it listens, all under a lock on the folder (`flock`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from rapini.errors import ConfigError

__all__ = [
    "AUTO",
    "MAX_PATH_BYTES",
    "OFF",
    "auto_folder",
    "auto_path",
    "bind_socket",
    "check_length",
    "is_answered",
    "live_sockets",
    "search_folders",
]

AUTO: Final = "auto"
OFF: Final = "off"

MAX_PATH_BYTES: Final = 107
"""Longest path of a Unix domain socket: `sun_path` has 108 bytes, the last of them 0 (unix(7))."""

_SUFFIX: Final = ".sock"
_NEW: Final = ".new"
_MAX_LISTED: Final = 1000
"""Files of a folder that are looked at."""

_BACKLOG: Final = 128

_LOCK_TIMEOUT_S: Final = 2.0
_LOCK_RETRY_S: Final = 0.005


def auto_folder() -> Path:
    """The folder for `control = "auto"`."""
    uid = os.geteuid()
    if chosen := os.environ.get("RAPINI_RUNTIME_DIR"):
        return Path(chosen)
    if (xdg := os.environ.get("XDG_RUNTIME_DIR")) and _is_ours(Path(xdg), uid):
        return Path(xdg) / "rapini"
    return Path("/run/rapini") if uid == 0 else Path(f"/tmp/rapini-{uid}")  # noqa: S108 - made 0700, owner checked


def search_folders() -> list[Path]:
    """The folders in which sockets of nodes may be that we are allowed to ask: root may ask everybody's."""
    if os.environ.get("RAPINI_RUNTIME_DIR"):
        return [auto_folder()]
    uid = os.geteuid()
    ours = [auto_folder(), Path(f"/run/user/{uid}/rapini"), Path(f"/tmp/rapini-{uid}")]  # noqa: S108 - as above
    folders = [folder for folder in ours if _is_ours(folder, uid)]
    if uid == 0:
        theirs = (*Path("/run/user").glob("*/rapini"), *Path("/tmp").glob("rapini-*"))  # noqa: S108 - as above
        folders += [Path("/run/rapini"), *filter(_is_a_users, theirs)]
    return list(dict.fromkeys(folders))


def _is_ours(folder: Path, uid: int) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid


def _is_a_users(folder: Path) -> bool:
    """Whether a folder is where its owner's nodes would put their sockets."""
    owner = re.fullmatch(r"/run/user/(\d+)/rapini|/tmp/rapini-(\d+)", str(folder))
    return owner is not None and _is_ours(folder, int(owner[1] or owner[2]))


def auto_path(cluster: str, node: str, number: int = 1) -> Path:
    """The path for `control = "auto"`; one that would be too long has a digest in the place of the cluster's name.

    Args:
        cluster: The cluster's name.
        node: The node's name.
        number: For further nodes of the same name in one process.
    """
    folder = auto_folder()
    end = f"-{os.getpid()}{f'.{number}' if number > 1 else ''}{_SUFFIX}"
    path = folder / f"{cluster}-{node}{end}"
    room = MAX_PATH_BYTES - len(os.fsencode(folder)) - len(f"/{end}{_NEW}")
    if len(f"{cluster}-{node}") > room > 10:
        digest = hashlib.sha256(f"{cluster}-{node}".encode()).hexdigest()[:8]
        path = folder / f"{digest}-{node}"[:room]
        path = path.with_name(path.name + end)
    return path


def check_length(path: str | Path, extra: int = 0) -> None:
    """Make sure that the path fits into a socket's address.

    Raises:
        ConfigError: `control_path`.
    """
    size = len(os.fsencode(path))
    if size + extra > MAX_PATH_BYTES:
        raise ConfigError(
            "control_path",
            f"the path of a control socket may have {MAX_PATH_BYTES - extra} bytes, this one has {size}",
            where=str(path),
            remedy="give a shorter one, for example below /run",
        )


def bind_socket(path: Path, *, is_shared: bool) -> socket.socket:
    """Make the folder if need be, remove stale sockets, and listen.

    Args:
        path: Where; a stale socket there is replaced.
        is_shared: Whether it is the folder of `control = "auto"`: then all stale sockets in it are removed.

    Returns:
        The socket: listening, non-blocking, mode 0600.

    Raises:
        ConfigError: `control_path` (too long, not a socket, no such folder), `control_permissions` (others may enter
            the folder) or `control_in_use` (a live process has that socket).
    """
    check_length(path, len(_NEW))
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with _locked(path.parent):
            if is_shared:
                _remove_stale(path.parent)
            _clear(path)
            return _listen(path)
    except OSError as exc:
        raise ConfigError(
            "control_path",
            f"no control socket can be made: {exc.strerror or exc}",
            where=str(path),
            remedy="give a path in a folder of yours, or control = 'off'",
        ) from exc


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Check the folder and hold its lock: nobody else who keeps to this module binds or removes a socket there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid != os.geteuid() or mode & 0o077:
            whose = f"belongs to user {found.st_uid}" if found.st_uid != os.geteuid() else f"has mode {mode:04o}"
            raise ConfigError(
                "control_permissions",
                f"others may enter the folder of the control socket (it {whose})",
                where=str(folder),
                remedy="give it a folder of its own: mkdir -m 700 FOLDER",
            )
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Everybody holds it for a few system calls; a process that is frozen meanwhile must not hold up the others."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds the folder's lock") from None
            time.sleep(_LOCK_RETRY_S)


def _remove_stale(folder: Path) -> None:
    for path in list(_sockets_in(folder)):
        if not is_answered(path):
            with contextlib.suppress(OSError):
                path.unlink()


def _clear(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError("control_path", "there is a file that is no socket", where=str(path), remedy="remove it")
    if is_answered(path):
        raise ConfigError(
            "control_in_use",
            "another process has this control socket",
            where=str(path),
            remedy="give each node a path of its own, or control = 'auto'",
        )
    path.unlink()


def _listen(path: Path) -> socket.socket:
    new = path.with_name(path.name + _NEW)
    new.unlink(missing_ok=True)  # of a process that died between these lines: the lock is ours
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(new))
        new.chmod(0o600)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        new.rename(path)
    except BaseException:
        listener.close()
        new.unlink(missing_ok=True)
        raise
    return listener


def is_answered(path: str | Path) -> bool:
    """Whether a process listens behind a socket's file, be it frozen or not ours to ask."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)
    except OSError:  # the path is too long, so nobody bound it
        return False
    finally:
        probe.close()


def _sockets_in(folder: Path) -> Iterator[Path]:
    """Files that may be control sockets."""
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, _MAX_LISTED):
                if entry.name.endswith(_SUFFIX) and stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                    yield folder / entry.name
    except OSError:
        return


def live_sockets() -> list[Path]:
    """Control sockets that a process listens behind, in the usual folders, by name."""
    found = (path for folder in search_folders() for path in _sockets_in(folder))
    return sorted((path for path in found if is_answered(path)), key=lambda path: (path.name, path))
