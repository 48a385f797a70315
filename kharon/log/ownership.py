"""Who may use a queue's directory: it is made if needed, checked, and locked for this process alone.

The owner, the permissions and the kind of disk are checked once, when a queue is opened or repaired. The log notices
later changes, since it checks its tail before each write. Nothing here reads the log.

Anyone who can write a directory can put another log into it, and Kharon would trust that. So a directory is refused if
another user owns it or may write it. On request its group may, as on a Kubernetes volume with an fsGroup. Only the
queue's own directory and its direct contents are checked. The path above it is the user's business: a home directory
behind a link, a sticky `/tmp` and a volume mounted into a container are all fine. Root (usual in a container) may write
in any directory, so its ownership is not checked.

A queue directory that is itself a link is followed if the link belongs to the user or to root: keeping a queue on
another disk behind a link is common. Its target is checked as well. A link made by another user may point elsewhere
tomorrow, and is refused. If a link is changed while the queue is open, the log notices, as for a directory that was
swapped. Inside a queue Kharon makes no links, so any link there is somebody else's and is refused.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, NamedTuple

from kharon.errors import KharonError, QueueLocked
from kharon.log.files import Files, Lock, Permissions

__all__ = ["LockedDirectory", "lock_directory"]

_OURS: Final = ("LOCK", "index", "log", "quarantine", "snapshots", "reserve", "begun", "ARCHIVE", "archive")
"""The names in a queue's directory."""
_GROUP_WRITES: Final = 0o020
_OTHERS_WRITE: Final = 0o002
_GROUP_REMEDY: Final = (
    "; or, if its group may write it, and you trust that group, open it with Settings(allow_group_access=True)"
)
_NETWORK: Final = frozenset(
    {
        *(
            "nfs",
            "nfs3",
            "nfs4",
            "cifs",
            "smb",
            "smb2",
            "smb3",
            "smbfs",
            "ncpfs",
            "afs",
            "coda",
            "9p",
            "ceph",
            "lustre",
        ),
        *("glusterfs", "beegfs", "gpfs", "orangefs", "davfs", "fuse.sshfs", "fuse.ceph", "fuse.glusterfs", "fuse.nfs"),
        *("fuse.davfs2", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.goofys", "fuse.smbnetfs", "fuse.curlftpfs"),
    }
)


class LockedDirectory(NamedTuple):
    """A directory that this process has locked.

    Attributes:
        lock: held until it is released, or this process ends.
        made: whether this call created the directory.
    """

    lock: Lock
    made: bool


def lock_directory(where: Path, files: Files, *, allow_network: bool, allow_group: bool) -> LockedDirectory:
    """Make a queue's directory if needed, check it, and lock it.

    Args:
        where: the directory; made, with mode 0700, if it does not exist.
        files: the file system.
        allow_network: whether it may be on a network file system.
        allow_group: whether its group may write it.

    Raises:
        QueueLocked: it is already locked, by this process or another.
        KharonError: the directory is not a queue's, or should not be trusted.
        OSError: the directory cannot be read or written.
    """
    made = _make_directory(where, files, allow_network=allow_network, allow_group=allow_group)
    try:
        return LockedDirectory(files.lock(where / "LOCK", b"%d\n" % os.getpid()), made)
    except BlockingIOError as busy:
        raise QueueLocked(f"{where} is open already, {_held_by(where, str(busy))}") from None


def _held_by(where: Path, holder: str) -> str:
    """Return who holds a lock, by what its holder wrote into it, and what to do about that."""
    remedy = "a queue has one opener at a time. Close it there, or ask that process to do the work"
    if holder == str(os.getpid()):
        return f"in process {holder}, which is this one; {remedy}"
    if _has_ended(holder):
        return (
            f"by process {holder}, which has ended, or runs in another container. If it has ended, a child that it "
            f"forked keeps the lock: find it with `lsof {where / 'LOCK'}`, and end it"
        )
    return f"in process {holder} (this is process {os.getpid()}); {remedy}"


def _has_ended(holder: str) -> bool:
    try:
        os.kill(int(holder), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, OSError):  # no number of a process, or another user's
        return False
    return False


def _make_directory(where: Path, files: Files, *, allow_network: bool, allow_group: bool) -> bool:
    """Make the directory and its `log/` if missing, and check them; return whether the directory was missing."""
    kind = files.kind(where)
    _check_disk(where.absolute() if kind else where.absolute().parent, files, allow_network=allow_network)
    if kind == "directory":
        strange = [name for name in files.list(where) if name not in _OURS]
        ours = files.kind(where / "LOCK") == "file" and files.kind(where / "log") == "directory"
        if strange and not ours:
            raise KharonError(f"{where} is not a queue, and is not empty ({strange[0]} …); name a new directory")
    elif kind is not None:
        raise KharonError(f"{where} is a file; a queue is a directory")
    else:
        parent = where.absolute().parent
        if files.kind(parent) != "directory":
            raise KharonError(f"{where} cannot be made: {parent} is not a directory; make that first")
        _make(where, files)
    _check_owner(where, files, allow_group=allow_group)
    if files.kind(where / "log") is None:
        _make(where / "log", files)
    return kind is None


def _make(path: Path, files: Files) -> None:
    with contextlib.suppress(FileExistsError):  # another opener was faster: the lock decides which one continues
        files.make_directory(path)


def _check_disk(where: Path, files: Files, *, allow_network: bool) -> None:
    """Check that the disk supports one holder, before anything is created on it.

    Args:
        where: the directory; or the one in which it will be made.
        files: the file system.
        allow_network: whether a network file system is accepted.

    Raises:
        KharonError: this system has no `flock`; or the directory is on a network file system.
    """
    if not files.can_lock():
        raise KharonError(
            f"{where} cannot be a queue: this system has no flock, so nothing would keep a second process from writing "
            f'it. Use a POSIX system, or kharon.open(":memory:")'
        )
    kind = files.file_system(where)
    if kind in _NETWORK and not allow_network:
        raise KharonError(
            f"{where} is on a network file system ({kind}), where locks and fsync may not do what they say: two "
            f"machines could write one log. Put the queue on a local disk; or, if this mount has locks and syncs that "
            f"hold, open it with Settings(allow_network_filesystem=True)"
        )


def _check_owner(where: Path, files: Files, *, allow_group: bool) -> None:
    """Check that no other user controls a queue's directory, which exists, and that this process can write it.

    Raises:
        KharonError: the check that failed, with the remedy.
    """
    user = files.user()
    look = files.permissions(where)
    if look is not None and look.link:
        if look.owner not in {user, 0}:
            raise KharonError(
                f"{where} is a symbolic link that user {look.owner} made, and this process acts for user {user}: it "
                f"may lead elsewhere tomorrow. Name the directory that it leads to"
            )
        look = files.permissions(where, follow=True)
    _check_access(where, look, user, allow_group=allow_group)
    for name in _OURS:
        look = files.permissions(where / name)
        if look is not None and look.link:
            raise KharonError(
                f"{where / name} is a symbolic link, and Kharon makes none: somebody else put it there. Find out who, "
                f"and put back what it stands for; to keep a queue on another disk, make a link to its whole directory"
            )
        _check_access(where / name, look, user, allow_group=allow_group)
    if not files.writable(where):
        raise KharonError(
            f"{where} cannot be written by this process (user {user}): a read-only file system, or its permissions. "
            f"Mount it for writing, or chmod u+rwx {where}; to read it only, use kharon.read, replay or verify"
        )


def _check_access(path: Path, look: Permissions | None, user: int, *, allow_group: bool) -> None:
    if look is None:
        return
    shared = allow_group and bool(look.mode & _GROUP_WRITES)  # then its owner is one of several who may write it
    if user not in {0, look.owner} and not shared:
        raise KharonError(
            f"{path} belongs to user {look.owner}, and this process acts for user {user}: that user can change "
            f"the log. Run as that user, chown it, or name a directory inside it, which Kharon makes{_GROUP_REMEDY}"
        )
    if look.mode & (_OTHERS_WRITE if allow_group else _OTHERS_WRITE | _GROUP_WRITES):
        raise KharonError(
            f"{path} may be written by others than its owner (mode {look.mode:04o}), who could change the log. "
            f"chmod go-w {path}, or name a directory inside it, which Kharon makes with mode 0700{_GROUP_REMEDY}"
        )
