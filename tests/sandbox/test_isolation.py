"""Where there is no isolation nothing runs, unless that is asked for; and how that is found out."""

import pytest

from mistral_eval.answers.completions import Program
from mistral_eval.errors import SandboxError, UsageError
from mistral_eval.run.diagnosis import _sandboxes
from mistral_eval.sandbox import CHOICES, Isolation, Status, probe, run_programs
from mistral_eval.settings import RunSettings

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


class TestChoice:
    def test_an_unknown_one_is_refused_with_the_nearest_names(self):
        with pytest.raises(
            UsageError, match=r"--sandbox: unknown value 'podmann'\. Did you mean podman\?"
        ):
            RunSettings(tasks=("humaneval",), sandbox="podmann")

    def test_it_is_no_part_of_a_runs_name(self):
        names = {RunSettings(tasks=("mbpp",), sandbox=choice).run_id({}) for choice in CHOICES}

        assert len(names) == 1

    def test_one_that_does_not_work_stops_the_run_before_the_model_is_loaded(
        self, cli, monkeypatch, tmp_path
    ):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("mistral_eval.run.run.complete", pytest.fail)
        arguments = ("run", "-t", "humaneval", "-m", "tiny", "--data", "sample", "-o", tmp_path)
        code, out, err = cli(*arguments, "--sandbox", "bubblewrap")

        assert (code, out) == (1, "")
        assert "--sandbox bubblewrap was asked for" in err
        assert "apt-get install bubblewrap" in err
        assert list(tmp_path.iterdir()) == []

    def test_without_programs_to_run_no_isolation_is_looked_for(self, cli, monkeypatch, tmp_path):
        monkeypatch.setattr("mistral_eval.run.opening.probe", pytest.fail)
        arguments = ("run", "-t", "piqa", "--engine", "random", "--data", "sample", "-o", tmp_path)

        assert cli(*arguments, "--sandbox", "docker")[0] == 0

    @pytest.mark.sandbox
    def test_the_chosen_one_runs_the_programs(self, isolation, cli, monkeypatch, tmp_path):
        kinds = []

        def watch(programs, **settings):
            kinds.append(settings["isolation"].kind)
            return run_programs(programs, **settings)

        monkeypatch.setattr("mistral_eval.suite.programs.run_programs", watch)
        where = ("--data", "sample", "-o", tmp_path, "--sandbox", isolation.kind, "--json")
        code, out, _ = cli("run", "-t", "mbpp", "--engine", "oracle", "-L", "2", *where)
        (folder,) = (tmp_path / "oracle").iterdir()
        again = cli("rescore", folder, "--sandbox", isolation.kind)[0]

        assert (code, again, kinds) == (0, 0, [isolation.kind] * 2)
        assert '"value": 100.0' in out

    @pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "auto"])
    def test_doctor_says_what_each_gives(self, choice, monkeypatch):
        def refuse(name):
            raise SandboxError(f"no {name}")

        monkeypatch.setattr("mistral_eval.sandbox.try_choice", refuse)
        findings = {finding.name: finding for finding in _sandboxes()}

        assert (findings[f"sandbox {choice}"].ok, findings[f"sandbox {choice}"].detail) == (
            False,
            f"no {choice}",
        )
