"""`mistral-eval run`: benchmarks on a model, and the table with its row."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mistral_eval.cli import options as opt
from mistral_eval.cli.output import Format, print_table, put
from mistral_eval.errors import UsageError

if TYPE_CHECKING:
    from mistral_eval.console import Talk
    from mistral_eval.run.several_models import Outcome
    from mistral_eval.settings import RunSettings


def run(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    tasks: opt.Tasks,
    model: opt.Models = None,
    adapter: opt.Adapter = None,
    engine: opt.Engine = "auto",
    base_url: opt.BaseUrl = None,
    data: opt.Data = "hub",
    limit: opt.Limit = None,
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    batch_tokens: opt.BatchTokens = None,
    stream_layers: opt.StreamLayers = None,
    workers: opt.Workers = None,
    batch_size: opt.BatchSize = None,
    seed: opt.Seed = 0,
    num_fewshot: opt.NumFewshot = None,
    apply_chat_template: opt.ApplyChatTemplate = False,
    chat_template: opt.ChatTemplate = "auto",
    system_instruction: opt.SystemInstruction = None,
    system_prompt: opt.SystemPrompt = None,
    fewshot_as_multiturn: opt.FewshotAsMultiturn = None,
    judge_url: opt.JudgeUrl = None,
    judge_model: opt.JudgeModel = None,
    judge_engine: opt.JudgeEngine = None,
    refusal_judge: opt.RefusalJudge = "cues",
    judge_only: opt.JudgeOnly = None,
    judge_pairwise: opt.JudgePairwise = None,
    iterations: opt.Iterations = 1,
    model_args: opt.ModelArgs = None,
    output_path: opt.RunsFolder = "results",
    name: opt.Names = None,
    part: opt.Part = None,
    no_compute: opt.NoCompute = False,
    verify: opt.Verify = 0,
    unsafe_code: opt.UnsafeCode = False,
    sandbox: opt.Sandbox = "auto",
    data_revision: opt.DataRevision = None,
    data_unpinned: opt.DataUnpinned = False,
    fresh: opt.Fresh = False,
    config: opt.Config = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Run benchmarks under the paper's protocol and print the table with this model's row.

    The same command resumes a stopped run, and prints the table of a finished one. With --part it
    ends without a table, which the same command with --no-compute in its place prints.
    """
    options = dict(locals())
    from mistral_eval.settings import DEFAULT_MODEL

    models = options["model"] or [DEFAULT_MODEL]
    each = settings_of_each(options, [(model, revision) for model in models])
    from mistral_eval.console import Talk

    talk, fmt = Talk(quiet=quiet), Format.JSON if as_json else Format.RICH
    _check_part(part, {"--judge-only": judge_only, "--judge-pairwise": judge_pairwise})
    if judge_only is not None:
        _judge_only(judge_only, judge_pairwise, each, talk, fmt)
        return
    if judge_pairwise is not None:
        from mistral_eval.run.pairing import check_pairing

        check_pairing(judge_pairwise, each[0])  # before anything is computed
    from mistral_eval.run.several_models import run_models

    outcomes = run_models(each, talk)
    finished = [(one.folder, one.settings) for one in outcomes if one.folder is not None]
    if judge_pairwise is not None:
        from mistral_eval.run.pairing import compare_answers

        for folder, settings in finished:
            compare_answers(folder, judge_pairwise, settings, talk)
    if judge_pairwise is not None or (iterations > 1 and each[0].judge_model and part is None):
        _print_chat([folder for folder, _ in finished], fmt)
        _end_with_failures(outcomes)
    else:
        end_with_table(outcomes, fmt)


def _check_part(part: str | None, judging: Mapping[str, Path | None]) -> None:
    """Check that a part of a run, which judges nothing, is not asked to.

    Raises:
        UsageError: it is.
    """
    for option, value in judging.items():
        if part is not None and value is not None:
            raise UsageError(
                f"--part {part} answers a share of the requests, and {option} judges whole runs. "
                "Leave out one of the two."
            )


def end_with_table(outcomes: Sequence["Outcome"], fmt: Format) -> None:
    """Print a table with a row for each run, then a sentence for each that failed.

    Parts of runs have no table.

    Raises:
        typer.Exit: one failed; the exit code is the first one's.
    """
    from mistral_eval.record.run_scores import failed_scores

    rows = [
        one.folder if one.error is None else failed_scores(one.settings, one.error)
        for one in outcomes
    ]
    if outcomes[0].settings.part is None:
        print_table([row for row in rows if row], fmt=fmt)
    _end_with_failures(outcomes)


def _end_with_failures(outcomes: Sequence["Outcome"]) -> None:
    """Print a sentence for each run that failed.

    Raises:
        typer.Exit: one failed; the exit code is the first one's.
    """
    failures = [(one.settings, one.error) for one in outcomes if one.error is not None]
    for settings, error in failures:
        who = "" if settings.model in str(error) else f"{settings.model}: "
        sys.stderr.write(f"mistral-eval: {who}{error}\n")
    if failures:
        raise typer.Exit(failures[0][1].exit_code)


def _judge_only(
    path: Path, other: Path | None, each: list["RunSettings"], talk: "Talk", fmt: Format
) -> None:
    """Judge stored answers, or compare them with others, and print the layout `chat`."""
    if other is None:
        from mistral_eval.run.judge_only import judge_file

        _print_chat([judge_file(path, each[0], talk)], fmt)
        return
    from mistral_eval.run.judge_only import check_runs_no_model
    from mistral_eval.run.pairing import compare_answers

    check_runs_no_model(each[0])
    _print_chat([compare_answers(path, other, each[0], talk)], fmt)


def _print_chat(paths: list[Path], fmt: Format) -> None:
    """Print the layout `chat` with these runs and files of judgments."""
    from mistral_eval.report.table import render_figure

    put(render_figure(paths, "chat", fmt.value), None)


def settings_of_each(
    options: Mapping[str, Any], models: Sequence[tuple[str, str | None]]
) -> list["RunSettings"]:
    """Return the settings of each model's run.

    Args:
        options: the command's options by name.
        models: each model and its revision on the hub; None leaves that to the options.

    Raises:
        UsageError: names and models differ in number, or two runs would share a folder.
    """
    names = options.get("name") or [None] * len(models)
    if len(names) != len(models):
        raise UsageError(
            f"Expected one --name for each of {len(models)} models, found {len(names)}. Give "
            "--name once per -m, in the same order."
        )
    if options.get("adapter") is not None and len(models) > 1:
        raise UsageError(
            f"--adapter is put on one model, and {len(models)} are given. Give each adapter's own "
            "folder as -m, or run them one by one."
        )
    for place, name in enumerate(names):
        if name is not None and name in names[:place]:
            raise UsageError(f"--name {name} is given twice. Give each run a name of its own.")
    each = [
        opt.settings_of(options, model=model, name=name, revision=revision or options["revision"])
        for (model, revision), name in zip(models, names, strict=True)
    ]
    found = [(settings.model, settings.revision) for settings in each]
    for place, (model, _) in enumerate(models):
        if found[place] in found[:place]:
            raise UsageError(f"The model {model} is given twice. Leave one of them out.")
    return [
        settings.model_copy(update={"iteration": place})
        for settings in each
        for place in range(options.get("iterations", 1))
    ]
