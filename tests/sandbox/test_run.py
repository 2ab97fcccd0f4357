"""What `run_programs` promises besides isolation: verdicts, reasons, order, and an early no."""

import dataclasses
import gc
import json
import os
import re
import secrets
import selectors
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from mistral_eval.answers.completions import Program
from mistral_eval.errors import SandboxError
from mistral_eval.sandbox import Isolation, Limits, Status, guest_process, run_programs
from mistral_eval.sandbox.isolation import try_kind
from mistral_eval.sandbox.launch import Setup
from mistral_eval.sandbox.pool import Slot


def program(source, *checks, setup="", context="", names=("f",)):
    return Program("a", source, setup=setup, context=context, checks=checks, names=names)


@pytest.fixture(scope="module")
def one(best_isolation, run_under):
    return lambda *args, **kwargs: run_under([program(*args, **kwargs)], best_isolation)[0]


@pytest.mark.sandbox
class TestVerdicts:
    def test_a_right_program_passes(self, one):
        assert one("def f(x): return x + 1", "assert f(1) == 2").status is Status.PASSED

    def test_a_false_check_is_a_failure_that_names_the_first_one(self, one):
        result = one("def f(x): return x", "assert f(1) == 1", "assert f(2) == 3, 'two'")

        assert result.status is Status.FAILED
        expected = "AssertionError: two; first failing check: assert f(2) == 3, 'two'"
        assert expected == result.detail

    def test_an_exception_is_an_error_with_its_type_and_message(self, one):
        result = one("def f(x): return x[0]", "assert f([]) == 1")

        assert result.status is Status.ERROR
        expected = "IndexError: list index out of range; first failing check: assert f([]) == 1"
        assert expected == result.detail

    def test_the_failing_check_is_found_inside_a_test_function(self, one):
        test = "def check(candidate):\n    for n in (1, 2):\n        assert candidate(n) == n\n"
        result = one("def f(x): return 1", test, "check(f)")

        assert result.detail.endswith("first failing check: assert candidate(n) == n")

    def test_a_program_that_cannot_be_compiled_is_an_error(self, one):
        result = one("def f(x) return x", "assert f(1) == 1")

        assert result.status is Status.ERROR
        assert result.detail.startswith("SyntaxError")

    def test_an_exception_class_of_the_program_is_an_error_with_its_name(self, one):
        result = one("class Bad(Exception): pass\ndef f(x): raise Bad('no')", "assert f(1) == 1")

        assert (result.status, result.detail.split(";")[0]) == (Status.ERROR, "Bad: no")

    def test_a_function_that_is_missing_is_a_name_error(self, one):
        result = one("def g(x): return x", "assert f(1) == 1")

        assert result.detail.startswith("NameError: name 'f' is not defined")

    def test_checks_that_take_too_long_are_a_timeout(self, best_isolation, run_under):
        limits = Limits(cpu_seconds=1)
        endless = program("def f(x): return x", "while True: pass")
        right = program("def f(x): return x", "assert f(1) == 1")
        statuses = [
            r.status for r in run_under([endless, right], best_isolation, limits, workers=1)
        ]

        assert statuses == [Status.TIMEOUT, Status.PASSED]

    def test_no_main_block_runs(self, one):
        source = "def f(x): return 1\nif __name__ == '__main__':\n    def f(x): return 2\n"

        assert one(source, "assert f(0) == 1").status is Status.PASSED

    def test_a_reply_may_print_and_read_its_input(self, one):
        source = (
            "import sys\nprint('x' * 10**6)\ndef f(x):\n    print(x)\n    return sys.stdin.read()"
        )

        assert one(source, "assert f(1) == ''").status is Status.PASSED

    def test_the_scratch_folder_can_be_written(self, one):
        source = (
            "import os, tempfile\n"
            "def f(x):\n"
            "    with open('note', 'w') as file: file.write(x)\n"
            "    with tempfile.NamedTemporaryFile('w+') as file: file.write(x)\n"
            "    return open('/tmp/note').read(), os.listdir('.'), os.getcwd()\n"
        )

        assert one(source, "assert f('a') == ('a', ['note'], '/tmp')").status is Status.PASSED

    def test_the_standard_library_can_be_imported(self, one):
        source = (
            "import asyncio, ctypes, dataclasses, datetime, decimal, fractions, hashlib, random\n"
            "import statistics, sqlite3, unittest, zlib, collections.abc, concurrent.futures\n"
            "async def g(x):\n    await asyncio.sleep(0)\n    return x\n"
            "def f(x): return asyncio.run(g(x))\n"
        )

        assert one(source, "assert f(1) == 1").status is Status.PASSED

    def test_site_packages_cannot_be_imported(self, one):
        result = one("import pytest\ndef f(x): return x", "assert f(1) == 1")

        assert result.detail.startswith("ModuleNotFoundError")


# Of words with equally many letters these take the first of a set: which one depends on the seed.
BY_ORDER = [
    "def f(words): return max(set(words), key=len)",
    "def f(words): return list(dict.fromkeys(words).keys() & set(words))[0]",
    "def f(words): return min(words, key=hash)",
    "def f(words): return next(iter({*words}))",
    "class A:\n    def f(self, w): return list(frozenset(w))[0]\nf = A().f",
]


@pytest.mark.sandbox
class TestHashSeeds:
    """A program must pass under each hash seed."""

    @pytest.mark.parametrize("source", BY_ORDER)
    def test_a_program_that_depends_on_the_seed_fails_whatever_it_returns(self, one, source):
        words = [f"word {n}" for n in range(6)]
        results = [one(source, f"assert f({words}) == {word!r}") for word in words]

        assert [str(result.status) for result in results] == ["failed"] * len(words)

    def test_the_seed_is_named_where_another_passed(self, one):
        words = ["ab", "cd"]
        source = "def f(words): return next(iter(set(words)))"
        results = [one(source, f"assert f({words}) == {word!r}") for word in words]

        assert any("it passed with 0" in result.detail for result in results)

    def test_order_that_the_language_promises_passes(self, one):
        source = "def f(words): return list(dict.fromkeys(words)), sorted(set(words))"

        assert (
            one(source, "assert f(['b', 'a', 'b']) == (['b', 'a'], ['a', 'b'])").status == "passed"
        )


@pytest.mark.sandbox
class TestTime:
    def test_a_sleeping_program_is_ended_and_its_real_time_is_said(self, best_isolation, run_under):
        limits = Limits(wall_seconds=1, most_load=1)
        (result,) = run_under(
            [program("import time\ntime.sleep(100)")], best_isolation, limits, workers=1
        )
        said = re.fullmatch(r"not done after ([0-9]+) seconds", result.detail)

        assert (result.status, bool(said)) == (Status.TIMEOUT, True), result
        assert 1 <= int(said[1]) <= result.seconds + 0.5

    def test_the_load_stretches_the_wall_time_up_to_a_cap(self, monkeypatch, best_isolation):
        monkeypatch.setattr("os.getloadavg", lambda: (1e6, 1e6, 1e6))
        limits = Limits(wall_seconds=1, most_load=2)
        sleeping = [program("import time\ntime.sleep(100)")]
        results = run_programs(
            sleeping, isolation=best_isolation, unsafe=False, workers=1, limits=limits
        )
        began = time.monotonic()
        ((_, result),) = results

        assert result.status is Status.TIMEOUT
        assert time.monotonic() - began < 60

    def test_a_program_may_set_its_own_cpu_limit(self, best_isolation, run_under):
        slow = program(
            "import time\nwhile time.process_time() < 1.5: pass\ndef f(): return 1", "f()"
        )
        own = dataclasses.replace(slow, cpu_seconds=20)
        found = run_under([slow, own], best_isolation, Limits(cpu_seconds=1))

        assert [str(result.status) for result in found] == ["timeout", "passed"]


@pytest.mark.sandbox
class TestValues:
    @pytest.mark.parametrize(
        ("body", "check", "status"),
        [
            ("import re\ndef f(x): return re.search('a', x)", "assert f('a')", "passed"),
            ("import re\ndef f(x): return re.search('a', x)", "assert not f('b')", "passed"),
            ("import re\ndef f(x): return re.search('a', x)", "assert f('b')", "failed"),
            ("import re\ndef f(x): return [re.search('a', x)]", "assert all(f('a'))", "passed"),
            ("import re\ndef f(x): return re.search('a', x)", "assert f('a') == True", "failed"),
            (
                "class N:\n    def __bool__(self): return False\ndef f(x): return N()",
                "assert f(1)",
                "failed",
            ),
            (
                "class N:\n    def __bool__(self): raise ValueError\ndef f(x): return N()",
                "assert f(1)",
                "failed",
            ),
            (
                "class N:\n    def __len__(self): return 0\ndef f(x): return N()",
                "assert not f(1)",
                "passed",
            ),
        ],
    )
    def test_an_object_may_be_used_for_its_truth_and_nothing_else(self, one, body, check, status):
        assert status == one(body, check).status

    @pytest.mark.parametrize(
        ("body", "check"),
        [
            ("collections.Counter('aab')", "{'a': 2, 'b': 1}"),
            ("collections.OrderedDict(a=1)", "{'a': 1}"),
            ("collections.namedtuple('P', 'a b')(1, 2)", "(1, 2)"),
            ("collections.defaultdict(int, a=1)", "{'a': 1}"),
            ("enum.IntEnum('E', 'A').A", "1"),
            ("frozenset({1}), {2}, [3], (4,), {5: {6}}", "({1}, {2}, [3], (4,), {5: {6}})"),
            ("range(3)", "range(3)"),
            ("b'a', bytearray(b'b'), 1j, None, True, ...", None),
            (
                "float('inf'), -0.0, 10**5000, 'é\\ud800'",
                "(float('inf'), 0.0, 10**5000, 'é\\ud800')",
            ),
            ("{'a': 1}.keys()", "{'a'}"),
            ("map(str, [1])", None),
        ],
    )
    def test_a_result_is_compared_as_its_plain_type(self, one, body, check):
        source = f"import collections, enum\ndef f(): return {body}\n"
        result = one(source, f"assert f() == {check}")

        assert (Status.FAILED if check is None else Status.PASSED) is result.status

    def test_an_iterator_crosses_as_an_iterator(self, one):
        assert one("def f(): yield from 'ab'", "assert list(f()) == ['a', 'b']").status == "passed"

    def test_the_checker_sees_the_plain_type_itself(self, one):
        source = "class L(list): pass\ndef f(): return L([1])"

        assert one(source, "assert type(f()) is list").status == "passed"

    def test_an_object_of_the_program_can_be_passed_back_but_not_compared(self, one):
        source = (
            "class Pair:\n    def __init__(self, a): self.a = a\n"
            "    def __eq__(self, other): return True\n"
            "def f(pairs): return sum(p.a for p in pairs)\n"
        )
        names = ("Pair", "f")

        assert one(source, "assert f([Pair(1), Pair(2)]) == 3", names=names).status == "passed"
        refused = one(source, "assert Pair(1) == 3", names=names)
        assert (refused.status, "not plain data" in refused.detail) == (Status.FAILED, True)

    def test_an_argument_that_cannot_cross_is_said(self, one):
        result = one("def f(g): return g(1)", "assert f(lambda x: x) == 1")

        assert result.detail.startswith("a test's argument cannot cross: a function")

    def test_values_that_set_up_code_made_are_passed_by_name(self, one):
        source = "class Node:\n    left = None\ndef f(node): return node.left is not None\n"
        setup = "root = Node()\nroot.left = Node()\n"

        assert one(source, "assert f(root)", setup=setup, names=("f", "root")).status == "passed"

    def test_helpers_of_the_context_are_not_the_programs(self, one):
        context = "def helper(x): return x + 1\ndef f(x): '''stub'''\n"
        source = "def helper(x): return 0\ndef f(x): return 0\n"

        assert one(source, "assert f(1) == helper(1)", context=context).status is Status.FAILED


# The first leaves bytes, and another size, in its streams; the second looks for them in its input.
STREAMS = [
    program(
        "import fcntl, os\n"
        "for stream in (0, 1, 2):\n"
        "    try: os.write(os.open(f'/proc/self/fd/{stream}', os.O_RDWR), b'left')\n"
        "    except OSError: pass\n"
        "    try: os.write(stream, b'left')\n"
        "    except OSError: pass\n"
        "    try: fcntl.fcntl(stream, 1031, 8192)\n"  # F_SETPIPE_SZ
        "    except OSError: pass\n"
        "def f(): return 1",
        "assert f() == 1",
    ),
    program(
        "import fcntl, os\n"
        "def f():\n"
        "    try: size = fcntl.fcntl(0, 1032)\n"  # F_GETPIPE_SZ
        "    except OSError: size = 65536\n"
        "    return os.read(0, 100), size\n",
        "assert f() == (b'', 65536), f()",
    ),
]


@pytest.mark.sandbox
class TestFreshness:
    def test_nothing_of_one_program_is_left_for_the_next(self, isolation, run_under):
        contained = isolation.kind == "podman"
        leave = program(
            "import os, math, sys, builtins\n"
            "math.left = sys.left = builtins.left = 1\n"
            "open('/tmp/left', 'w').close()\nos.mkdir('folder')\n"
            "os.environ['LEFT'] = 'x'\nos.umask(0o777)\nsys.setrecursionlimit(50)\n"
            "try: os.chmod('/tmp', 0)\n"
            "except PermissionError: pass\n"  # in a container it is not the program's own
            "def f(): return 1",
            "assert f() == 1",
        )
        look = program(
            "import os, math, sys, builtins\n"
            "found = [hasattr(m, 'left') for m in (math, sys, builtins)], dict(os.environ)\n"
            "def f(): return found, os.listdir('/tmp'), os.stat('/tmp').st_mode & 0o777\n",
            f"assert f() == (([False] * 3, {{}}), [], {0o777 if contained else 0o700})",
        )
        results = run_under([leave, look] * 3, isolation, workers=1)

        assert [str(result.status) for result in results] == ["passed"] * 6, results

    def test_nothing_is_left_in_a_stream(self, isolation, run_under):
        results = run_under(STREAMS * 3, isolation, workers=1)

        assert [str(result.status) for result in results] == ["passed"] * 6, results

    def test_nothing_is_left_in_a_stream_without_isolation(self):
        nothing = Isolation("none", "", ())
        found = run_programs(STREAMS * 3, isolation=nothing, unsafe=True, workers=1)

        assert [str(one.status) for _, one in sorted(found, key=lambda pair: pair[0])] == [
            "passed"
        ] * 6

    def test_a_test_cannot_leave_a_name_for_the_next_one(self, best_isolation, run_under):
        leave = program("def f(): return 1", "left = f()")
        look = program("def f(): return 1", "assert 'left' not in globals()")
        results = run_under([leave, look], best_isolation, workers=1)

        assert [str(result.status) for result in results] == ["passed", "passed"]


@pytest.mark.sandbox
class TestRuns:
    def test_each_index_comes_once_with_its_own_result(self, best_isolation):
        programs = [program(f"def f(): return {n % 3}", "assert f() == 0") for n in range(40)]
        results = dict(run_programs(programs, isolation=best_isolation, unsafe=False, workers=3))

        assert list(range(40)) == sorted(results)
        assert [n % 3 == 0 for n in range(40)] == [
            results[n].status is Status.PASSED for n in range(40)
        ]

    def test_a_run_can_be_left_early_and_started_again(self, best_isolation):
        programs = [program("def f(): return 1", "assert f() == 1")] * 10
        for _ in range(2):
            results = run_programs(programs, isolation=best_isolation, unsafe=False, workers=2)
            assert next(results)[1].status is Status.PASSED
            results.close()

    def test_no_programs_give_no_results(self, best_isolation):
        assert list(run_programs([], isolation=best_isolation, unsafe=False)) == []

    def test_it_runs_in_a_thread(self, best_isolation):
        results = []
        programs = [program("def f(): return 1", "assert f() == 1")] * 3
        thread = threading.Thread(
            target=lambda: results.extend(
                run_programs(programs, isolation=best_isolation, unsafe=False)
            )
        )
        thread.start()
        thread.join()

        assert len(results) == 3


@pytest.mark.sandbox
def test_a_host_that_is_killed_leaves_no_process_behind(isolation, living, tmp_path):
    size = (5 << 20) + secrets.randbelow(1 << 20)
    code = f"""
from mistral_eval.answers.completions import Program
from mistral_eval.sandbox import Isolation, Limits, run_programs
quick = Program("q", "def f(): return 1", checks=("assert f() == 1",), names=("f",))
loop = Program("l", "def f(): return 1", checks=("f()\\nwhile True: pass",), names=("f",))
endless = Program("e", "while True: pass")
kind = Isolation({isolation.kind!r}, "")
limits = Limits(scratch_bytes={size})
programs = [quick, loop, endless]
for index, _ in run_programs(programs, isolation=kind, unsafe=False, workers=3, limits=limits):
    print(index, flush=True)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert host.stdout.readline() == b"0\n"
    host.kill()
    host.communicate()

    assert living(size) == []


@pytest.mark.sandbox
def test_a_process_that_ended_while_it_waited_is_replaced(best_isolation, interpreter):
    """Not by a program, which cannot reach it; by whoever looks for memory on this machine."""
    setup = Setup(best_isolation.kind, interpreter, Limits())
    right = program("def f(): return 1", "assert f() == 1")
    with selectors.DefaultSelector() as selector, closing(Slot(setup, selector)) as slot:
        slot.wait_until_ready()
        for guest in slot._guests.values():
            guest._process.kill()
            guest._process.wait()
            guest.control.setblocking(True)
            assert guest.control.recv(1) == b""  # its end has come, but is not yet heard
            guest.control.setblocking(False)
        slot.start(0, right)
        done = None
        while done is None:
            for key, _ in selector.select():
                done = done or slot.hear(key.data[1])

    assert (done[0], str(done[1].status)) == (0, "passed")


NULL_IS_A_FILE = """
import json, sys
from mistral_eval.answers.completions import Program
from mistral_eval.sandbox import Isolation, Limits, run_programs
sources = [
    "print('x' * 10**6)\\ndef f(x): print(x)",
    "import sys\\ndef f(x): return sys.stdin.read() or None",
    "def f(x):\\n    while True: print('x' * 10**5)",
]
programs = [Program("a", one, checks=("assert f(1) is None",), names=("f",)) for one in sources]
kind, limits = Isolation(sys.argv[1], "", ()), Limits(cpu_seconds=1)
results = run_programs(programs, isolation=kind, unsafe=kind.kind == "none", limits=limits)
print(json.dumps([str(result.status) for _, result in sorted(results)]))
"""


@pytest.mark.sandbox
@pytest.mark.parametrize("kind", ["bubblewrap", "namespaces", "none"])
def test_what_programs_print_is_shown_to_no_other_where_null_is_a_file(kind, interpreter, tmp_path):
    """Any program that runs as root can put a file at /dev/null; here in a mount namespace."""
    if kind != "none":
        try:
            try_kind(kind, interpreter)
        except SandboxError as error:
            pytest.skip(f"no {kind} here: {error}")
    file = tmp_path / "null"
    file.touch()
    script = 'mount --bind "$1" /dev/null || exit 99; shift; exec "$@"'
    command = [sys.executable, "-c", NULL_IS_A_FILE, kind]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", file, *command],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode == 99 or done.stderr.startswith("unshare:"):
        pytest.skip(f"no file system of our own here: {done.stderr.strip()}")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["passed", "passed", "timeout"]
    assert file.stat().st_size == 0


def test_a_guest_that_does_not_start_leaves_no_file_open(monkeypatch, interpreter):
    def fail(*_):
        raise SandboxError("no runtime")

    monkeypatch.setattr(guest_process, "start_command", fail)
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    for _ in range(20):
        with pytest.raises(SandboxError, match="no runtime"):
            try_kind("none", interpreter)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < len(before) + 5  # noqa: PTH208


def test_without_a_device_that_discards_nothing_starts(monkeypatch, tmp_path, interpreter):
    (tmp_path / "file").touch()
    monkeypatch.setattr(guest_process, "SINKS", (str(tmp_path / "file"), str(tmp_path / "none")))
    with pytest.raises(SandboxError, match="mknod -m 666 /dev/null c 1 3"):
        try_kind("none", interpreter)
