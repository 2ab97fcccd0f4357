"""`mistral-eval doctor`: what this machine offers."""

from mistral_eval.cli import options as opt
from mistral_eval.cli.output import print_json


def doctor(*, as_json: opt.AsJson = False) -> None:
    """Show which devices, engines, isolation and data this machine offers, and what is missing."""
    from mistral_eval.console import show
    from mistral_eval.run.diagnosis import examine, render

    findings = examine()
    if as_json:
        print_json([finding.as_json() for finding in findings])
        return
    show(render(findings))
