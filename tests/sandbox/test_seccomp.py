"""The filter refuses, by number, the calls through which a program could reach outside."""

import pytest

from mistral_eval.answers.completions import Program
from mistral_eval.sandbox.guest.seccomp import filter_for

# Numbers on x86_64, from the kernel's table: what a program must never get to do.
REFUSED = {
    "fork": 57, "vfork": 58, "clone": 56, "clone3": 435, "execve": 59, "execveat": 322,
    "socket": 41, "connect": 42, "accept": 43, "sendmsg": 46, "recvmsg": 47, "bind": 49,
    "listen": 50, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
    "pidfd_getfd": 438, "pidfd_open": 434, "kcmp": 312, "mount": 165, "umount2": 166,
    "pivot_root": 155, "chroot": 161, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "unshare": 272, "setns": 308, "prctl": 157, "seccomp": 317, "capset": 126, "setuid": 105,
    "setresuid": 117, "chown": 92, "mknod": 133, "bpf": 321, "perf_event_open": 298,
    "userfaultfd": 323, "io_uring_setup": 425, "keyctl": 250, "add_key": 248,
    "memfd_create": 319, "memfd_secret": 447, "shmget": 29, "msgget": 68, "semget": 64,
    "mq_open": 240, "init_module": 175, "kexec_load": 246, "reboot": 169, "settimeofday": 164,
    "clock_settime": 227, "sethostname": 170, "swapon": 167, "acct": 163, "quotactl": 179,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "setpriority": 141,
    "sched_setscheduler": 144, "personality": 135, "iopl": 172, "ioperm": 173, "setxattr": 188,
    "setsid": 112, "setpgid": 109, "process_madvise": 440, "x32 getpid": 0x40000000 | 39,
}  # fmt: skip

SOURCE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def errors(numbers):
    found = {}
    for name, number in numbers.items():
        ctypes.set_errno(0)
        done = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 5)
        found[name] = ctypes.get_errno() if done < 0 else "allowed"
    return found
"""


@pytest.mark.sandbox
@pytest.mark.skipif("__import__('os').uname().machine != 'x86_64'", reason="x86_64's numbers")
def test_dangerous_calls_are_refused(isolation, run_under):
    if "seccomp" in isolation.missing:
        pytest.skip("this kernel has no seccomp")
    check = f"numbers = {REFUSED!r}\nfound = errors(numbers)\n"
    check += "assert [n for n in numbers if found[n] != 1] == [], found"
    program = Program("calls", SOURCE, checks=(check,), names=("errors",))
    (result,) = run_under([program], isolation)

    assert (str(result.status), result.detail) == ("passed", "")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("checker", [False, True])
def test_the_filter_answers_each_number_as_its_table_says(machine, checker):
    """An interpreter of classic BPF, and the kernel's tables for reading and forking."""
    code = filter_for(machine, checker=checker)
    audit = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    read, fork, receive = {"x86_64": (0, 57, 47), "aarch64": (63, 220, 212)}[machine]

    assert run(code, read, audit) == 0x7FFF0000
    assert run(code, fork, audit) == 0x00050001
    assert run(code, receive, audit) == (0x7FFF0000 if checker else 0x00050001)
    assert run(code, read, 0x40000003) == 0x80000000  # 32-bit x86: the process is killed
    assert all(run(code, number, audit) == 0x00050001 for number in range(450, 3000, 7))


def test_an_unknown_machine_has_no_filter():
    assert filter_for("sparc64", checker=False) is None


def run(code, number, audit, arguments=(0,) * 6):
    """What a filter returns for one call: load, jump if equal or not less, return."""
    import struct

    data = struct.pack("=iIQ6Q", number, audit, 0, *arguments)
    instructions = list(struct.iter_unpack("=HBBI", code))
    accumulator = position = 0
    while True:
        kind, if_true, if_false, value = instructions[position]
        position += 1
        if kind == 0x06:
            return value
        if kind == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        else:
            true = accumulator == value if kind == 0x15 else accumulator >= value
            position += if_true if true else if_false
