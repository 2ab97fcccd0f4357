"""What `--tasks` may name: suites, benchmarks and lm-eval's own tasks."""

from collections.abc import Sequence

from mistral_eval.errors import UsageError, nearest
from mistral_eval.settings import STOCK_PREFIX, RunSettings
from mistral_eval.suite.registry import BY_ID
from mistral_eval.suite.suites import SUITES


def parse_tasks(text: str) -> tuple[str, ...]:
    """Read a list of suites, benchmarks and `lm_eval:NAME`, separated by commas.

    Returns:
        Benchmark ids in the table's order, each once, then the stock tasks in the order given.

    Raises:
        UsageError: an unknown name (the sentence offers the nearest ones), or no name.
    """
    asked = [part.strip() for part in text.split(",") if part.strip()]
    if not asked:
        raise UsageError(
            f"--tasks is empty. Name a suite ({', '.join(SUITES)}) or benchmarks, separated by "
            "commas; `mistral-eval tasks` lists them."
        )
    ours: set[str] = set()
    stock: list[str] = []
    for name in asked:
        if name.startswith(STOCK_PREFIX) and len(name) > len(STOCK_PREFIX):
            stock.append(name)
        elif name in SUITES:
            ours.update(SUITES[name])
        elif name in BY_ID:
            ours.add(name)
        else:
            raise UsageError(
                f"Unknown task {name!r}. {nearest(name, [*BY_ID, *SUITES])} "
                f"A stock lm-eval task is written {STOCK_PREFIX}NAME."
            )
    for name in stock:
        if name.removeprefix(STOCK_PREFIX) in ours:
            raise UsageError(
                f"{name} and {name.removeprefix(STOCK_PREFIX)} would have the same name in the "
                "results. Run them one after the other."
            )
    return (*(name for name in BY_ID if name in ours), *dict.fromkeys(stock))


def check_shots(settings: RunSettings) -> None:
    """Check that every benchmark's protocol has as many solved examples as are asked for.

    More would have to be drawn from the test set.

    Raises:
        UsageError: a benchmark has fewer; names it and their number.
    """
    wanted = settings.num_fewshot
    for name in settings.own_tasks:
        if wanted is not None and wanted > BY_ID[name].shots:
            raise UsageError(
                f"--num-fewshot {wanted}: the protocol has {BY_ID[name].shots} solved examples "
                f"for {name}. Ask for at most that many, or leave {name} out."
            )


def suite_of(tasks: Sequence[str]) -> str | None:
    """Return the name of the suite that has exactly these tasks, for the name of a run's folder."""
    return next((suite for suite, members in SUITES.items() if tuple(tasks) == members), None)
