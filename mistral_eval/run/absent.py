"""Leave out what a suite asks for and a data folder does not hold."""

from collections.abc import Sequence

from mistral_eval.data.sources import is_absent, make_source, sought
from mistral_eval.data.task_file import data_spec
from mistral_eval.settings import RunSettings
from mistral_eval.suite.registry import BY_ID


def leave_out_absent(settings: RunSettings, optional: Sequence[str]) -> RunSettings:
    """Leave out the benchmarks among `optional` of which the data folder holds no file.

    If it holds no file of any of them, it is the wrong folder: nothing is left out, and loading the
    rows says what is missing.

    Raises:
        DataError: the data folder is missing or empty, or a file of a split is missing.
    """
    source = make_source(settings.data)
    if source.kind != "folder" or source.folder is None:
        return settings
    absent = [name for name in optional if is_absent(data_spec(name), source.folder)]
    if len(absent) == len(optional):
        return settings
    kept = tuple(name for name in settings.tasks if name not in absent)
    return settings.model_copy(update={"tasks": kept, "left_out": tuple(absent)})


def lacking(benchmark: str) -> str:
    """Return what a run says about a benchmark that it leaves out, without a final full stop."""
    spec = data_spec(benchmark)
    files = sought(spec, spec.configs[0], spec.splits[0])
    return f"{BY_ID[benchmark].column} is left out: the data folder has no {files}"
