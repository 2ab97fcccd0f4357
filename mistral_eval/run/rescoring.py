"""Judging a run's logged replies again, without its model.

The run's questions are built again and its replies looked up; only the engine's encoder is needed,
for the keys. A missing reply is an error: nothing is computed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistral_eval.console import Talk
from mistral_eval.engines.interface import EngineIdentity
from mistral_eval.record.replies import check_replies
from mistral_eval.record.run_record import read_run
from mistral_eval.run.run import complete, isolation_for
from mistral_eval.settings import RunSettings


def rescore(folder: Path, talk: Talk, *, unsafe_code: bool, sandbox: str = "auto") -> None:
    """Judge a finished run's replies again and write its results anew; the old files stay.

    Raises:
        OutputError: the folder holds no finished run.
        RepliesError: a reply is missing, e.g. since the protocol has changed.
        MistralEvalError: the run's data, tokenizer or sandbox is not there any more.
    """
    run = read_run(folder)
    check_replies(folder)
    settings = settings_of(run, unsafe_code=unsafe_code, sandbox=sandbox)
    info = {key: value for key, value in run["model"].items() if key != "fingerprint"}
    identity = EngineIdentity(**run["identity"], info=info, notes=tuple(run["notes"]))
    isolation = isolation_for(settings)
    complete(folder, settings, talk, isolation, earlier=run, rescored=identity)


def settings_of(run: Mapping[str, Any], *, unsafe_code: bool, sandbox: str) -> RunSettings:
    """Return the settings that run.json keeps; how programs run is chosen anew."""
    chosen = {"unsafe_code": unsafe_code, "sandbox": sandbox}
    return RunSettings(**{**run["settings"], **chosen, "verify": 0})  # no model to verify with
