"""Bad and odd inputs of every kind: links, and what is neither a file nor a folder. See corpus.py."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from data.corpus import LEFT_OUT, USED, Kind, put
from data.pictures import encoded, pixels

LONG_FOLDER = "d" * 250


def links(folder: Path) -> list[Kind]:
    """Links that lead nowhere, in circles, outside, and to what is met anyway."""
    outside = put(folder.parent / "outside", "elsewhere.png", encoded(6))
    put(folder, "linked/target.png", encoded(7))
    (folder / "linked/loop").symlink_to("..")
    (folder / "linked/itself.png").symlink_to("itself.png")
    (folder / "linked/dangling.png").symlink_to("nothing.png")
    (folder / "linked/outside.png").symlink_to(outside)
    (folder / "linked/again.png").symlink_to("target.png")
    os.link(folder / "linked/target.png", folder / "linked/hard.png")
    # what even root cannot read: a regular file of the system without a beginning
    (folder / "linked/memory.jpg").symlink_to("/proc/self/mem")
    return [
        Kind("linked/target.png", USED, pixels=pixels(7)),
        Kind("linked/hard.png", USED, pixels=pixels(7)),
        Kind("linked/outside.png", USED, pixels=pixels(6)),
        Kind("linked/loop", LEFT_OUT, "link to a folder that is there anyway"),
        Kind("linked/itself.png", LEFT_OUT, "cannot be looked at (Too many levels of symbolic links)"),
        Kind("linked/dangling.png", LEFT_OUT, "broken link"),
        Kind("linked/again.png", LEFT_OUT, "link to a file that is there anyway"),
        Kind("linked/memory.jpg", LEFT_OUT, "cannot be read (Invalid argument)"),
    ]


def no_files(folder: Path) -> list[Kind]:
    """Pipes, sockets, devices, what may not be read, and a path longer than the system takes."""
    reason = "neither a file nor a folder"
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as each:
        here = os.open(folder, os.O_RDONLY)  # the path of a socket may have 107 bytes
        each.bind(f"/proc/self/fd/{here}/socket.jpg")
        os.close(here)
    found = [Kind("pipe.jpg", LEFT_OUT, reason), Kind("socket.jpg", LEFT_OUT, reason)]
    try:
        os.mknod(folder / "device.jpg", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        found.append(Kind("device.jpg", LEFT_OUT, reason))
    except PermissionError:
        pass  # which takes root
    locked = put(folder, "locked.png", encoded(8))
    locked.chmod(0)
    if os.geteuid():
        found.append(Kind("locked.png", LEFT_OUT, "cannot be read (Permission denied)"))
    else:
        found.append(Kind("locked.png", USED, pixels=pixels(8)))  # root may read everything
    (folder / "empty-folder").mkdir()
    return [*found, too_deep(folder)]


def too_deep(folder: Path) -> Kind:
    """Folders in folders beyond 4,096 bytes of path, the last of which nothing can reach by name."""
    handles, name = [os.open(folder, os.O_RDONLY)], ""
    while len(os.fsencode(folder / name)) < 4096:
        os.mkdir(LONG_FOLDER, dir_fd=handles[-1])
        handles.append(os.open(LONG_FOLDER, os.O_RDONLY, dir_fd=handles[-1]))
        name = f"{name}/{LONG_FOLDER}" if name else LONG_FOLDER
    for handle in handles:
        os.close(handle)
    return Kind(name, LEFT_OUT, "folder that cannot be opened (File name too long), with all it holds")
