"""`mistral-eval run`: benchmarks on a model, and the table with its row."""

from pathlib import Path

from mistral_eval.cli import options as opt
from mistral_eval.cli.output import Format, print_table


def run(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    tasks: opt.Tasks,
    model: opt.Model = "mistralai/Mistral-7B-v0.1",
    adapter: opt.Adapter = None,
    engine: opt.Engine = "auto",
    data: opt.Data = "hub",
    limit: opt.Limit = None,
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    batch_tokens: opt.BatchTokens = None,
    seed: opt.Seed = 0,
    num_fewshot: opt.NumFewshot = None,
    model_args: opt.ModelArgs = None,
    output_path: opt.RunsFolder = Path("results"),
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

    The same command resumes a stopped run, and prints the table of a finished one.
    """
    options = dict(locals())
    settings = opt.settings_of(options)
    from mistral_eval.console import Talk
    from mistral_eval.run.run import run_suite

    folder = run_suite(settings, Talk(quiet=quiet))
    print_table([folder], fmt=Format.JSON if as_json else Format.RICH)
