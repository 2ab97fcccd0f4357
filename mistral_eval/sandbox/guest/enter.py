"""Build the sandbox from Linux namespaces directly, where bubblewrap is not available.

This runs outside, as its own process: it enters new user, mount, process, network, IPC, host-name
and cgroup namespaces, builds a root that holds the interpreter and nothing else, and executes the
guest's command. Source: user_namespaces(7), mount_namespaces(7), pivot_root(2).
"""

import json
import os
import sys

from .linux import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    Linux,
)

_BASE = "/tmp"  # noqa: S108  exists everywhere; the tmpfs covers it in this mount namespace only
_OLD, _NEW = "/old", "/new"
_SMALL = "size=1m,nr_inodes=4096,mode=0755"


def main() -> None:
    """Enter the sandbox described by the JSON in the arguments and execute its command."""
    plan = json.loads(sys.argv[1])
    linux = Linux()
    linux.die_with_parent()
    user, group = os.geteuid(), os.getegid()
    linux.unshare(
        CLONE_NEWUSER
        | CLONE_NEWNS
        | CLONE_NEWPID
        | CLONE_NEWNET
        | CLONE_NEWIPC
        | CLONE_NEWUTS
        | CLONE_NEWCGROUP
    )
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(text)
    child = os.fork()  # the first process of the new process namespace
    if child == 0:
        linux.die_with_parent()
        _build_root(linux, plan["binds"], plan["hidden"])
        os.execve(plan["command"][0], plan["command"], plan["environment"])  # noqa: S606
    for descriptor in plan["descriptors"]:
        os.close(descriptor)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def _build_root(linux: Linux, binds: list[list[str]], hidden: list[str]) -> None:
    """Build a new root of read-only `binds` (source, target); cover the `hidden` folders."""
    linux.mount("none", "/", "", MS_REC | MS_PRIVATE)
    linux.mount("tmpfs", _BASE, "tmpfs", MS_NOSUID | MS_NODEV, _SMALL)
    os.mkdir(_BASE + _OLD)  # noqa: PTH102
    os.mkdir(_BASE + _NEW)  # noqa: PTH102
    linux.pivot_root(_BASE, _BASE + _OLD)
    os.chdir("/")
    linux.mount("tmpfs", _NEW, "tmpfs", MS_NOSUID | MS_NODEV, _SMALL)
    for source, target in binds:
        _bind(linux, _OLD + source, _NEW + target)
    for folder in hidden:
        linux.mount("tmpfs", _NEW + folder, "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY, _SMALL)
    os.makedirs(_NEW + "/tmp", exist_ok=True)  # noqa: S108, PTH103
    os.makedirs(_NEW + _OLD, exist_ok=True)  # noqa: PTH103
    linux.pivot_root(_NEW, _NEW + _OLD)
    os.chdir("/")
    linux.umount(_OLD)  # the intermediate root, with the host's root inside
    os.rmdir(_OLD)  # noqa: PTH106
    linux.mount("", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _bind(linux: Linux, source: str, target: str) -> None:
    if os.path.isdir(source):  # noqa: PTH112
        os.makedirs(target, exist_ok=True)  # noqa: PTH103
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        with open(target, "w", encoding="ascii"):  # noqa: PTH123
            pass
    linux.mount(source, target, "", MS_BIND | MS_REC)
    # The mount flags of the host's file system are locked here; a remount must repeat them.
    locked = os.statvfs(target).f_flag & (os.ST_NOEXEC | os.ST_NODEV | os.ST_NOSUID)
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | locked
    linux.mount("", target, "", flags)
