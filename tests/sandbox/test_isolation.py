"""Where there is no isolation nothing runs, unless that is asked for; and how that is found out."""

import pytest

from mistral_eval.answers.programs import Program
from mistral_eval.errors import SandboxError
from mistral_eval.sandbox import Isolation, Status, probe, run_programs

NOTHING = Isolation("none", "bubblewrap (bwrap) is not installed", ("namespaces",))


def program(source, check):
    return Program("a", source, checks=(check,), names=("f",))


class TestWithoutIsolation:
    def test_nothing_runs_and_the_sentence_says_what_to_do(self):
        with pytest.raises(SandboxError) as caught:
            run_programs([program("1 / 0", "1")], isolation=NOTHING, unsafe=False)

        message = str(caught.value)
        assert "bubblewrap (bwrap) is not installed" in message
        assert "apt-get install bubblewrap" in message
        assert "--unsafe-code" in message

    def test_the_programs_run_if_that_is_wanted(self):
        programs = [
            program("def f(x): return x + 1", "assert f(1) == 2"),
            program("def f(x): return x", "assert f(1) == 2"),
            program("import os\nopen('x', 'w')\ndef f(x): os._exit(0)", "assert f(1) == 2"),
            program("import os\ndef f(): return os.listdir('.')", "assert f() == []"),
        ]
        results = dict(run_programs(programs, isolation=NOTHING, unsafe=True, workers=1))
        statuses = [results[index].status for index in range(4)]

        assert statuses == [Status.PASSED, Status.FAILED, Status.ERROR, Status.PASSED]


class TestProbe:
    def test_what_it_finds_is_said_in_a_sentence(self):
        found = probe()

        assert found.kind in {"bubblewrap", "namespaces", "none"}
        assert found.available is (found.kind != "none")
        assert found.detail

    def test_a_machine_without_any_isolation_is_told_from_others(self, monkeypatch):
        def refuse(*_args):
            raise SandboxError("no")

        monkeypatch.setattr("mistral_eval.sandbox.isolation.try_kind", refuse)
        monkeypatch.setattr("mistral_eval.sandbox.isolation.find_bubblewrap", lambda: None)
        found = probe()

        assert (found.kind, found.available) == ("none", False)
        assert "bubblewrap (bwrap) is not installed" in found.detail
        assert "namespaces: no" in found.detail
