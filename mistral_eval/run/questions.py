"""From a benchmark's YAML file and rows to the requests that lm-eval would build."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import lm_eval.utils
from jinja2 import Template
from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from mistral_eval.data import Fingerprint, Row, Rows, Source, dataset_from
from mistral_eval.data.task_file import tasks_folder
from mistral_eval.engines.interface import GenerationSettings, Kind, Request
from mistral_eval.engines.lm_eval_model import FEWSHOT_SEED, request_of, settings_of
from mistral_eval.errors import TaskError
from mistral_eval.settings import Limit, RunSettings
from mistral_eval.suite.benchmark import Benchmark
from mistral_eval.suite.registry import BY_ID


@dataclass(slots=True)
class Question:
    """One question with its requests: one per choice, or one per sample of its prompt."""

    doc_id: int
    doc: Mapping[str, Any]
    requests: list[Request]


@dataclass
class LoadedBenchmark:
    """A benchmark ready to be asked.

    Attributes:
        task: lm-eval's task over our rows.
        fingerprint: What the rows were recognised as.
        total: Questions in the whole test set.
        questions: Those this run asks, in the test set's order.
    """

    benchmark: Benchmark
    task: ConfigurableTask
    fingerprint: Fingerprint
    total: int
    questions: list[Question]

    @property
    def kind(self) -> Kind:
        """What the benchmark asks for: "score" or "generate"."""
        return "score" if self.task.OUTPUT_TYPE == "multiple_choice" else "generate"

    @property
    def requests(self) -> list[Request]:
        """All requests, in the order of the questions."""
        return [request for question in self.questions for request in question.requests]

    @cached_property
    def settings(self) -> GenerationSettings | None:
        """How replies are generated; None where choices are scored."""
        if self.kind == "score":
            return None
        return settings_of(self.task.config.generation_kwargs)

    @property
    def judged_by(self) -> str:
        """The name of the task's filter, which is part of lm-eval's key of each metric."""
        return str(self.task.config.filter_list[0]["name"])

    def stratum(self, doc: Mapping[str, Any]) -> str | None:
        """The subject of a question, or None where the benchmark has none."""
        column = self.benchmark.stratum
        return None if column is None else str(doc[column])


@dataclass(frozen=True, slots=True)
class Asking:
    """What decides the questions of a run, apart from the benchmark.

    `revisions` maps a benchmark to the hub's branch, tag or commit that replaces its YAML file's.
    """

    source: Source
    limit: Limit | None
    num_fewshot: int | None
    unpinned: bool
    revisions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: RunSettings, source: Source) -> "Asking":
        """What a run's settings say of it."""
        return cls(
            source,
            settings.limit,
            settings.num_fewshot,
            settings.data_unpinned,
            settings.data_revision,
        )


def load_benchmarks(names: Sequence[str], asking: Asking) -> Iterator[LoadedBenchmark]:
    """Load each benchmark's task and rows and build its requests, one benchmark at a time.

    Raises:
        DataError, HubError: rows that are missing, malformed or not the pinned ones.
    """
    lm_eval.utils.apply_template = apply_template
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of each custom data set
    for name in names:
        yield _load(BY_ID[name], asking)


@lru_cache(maxsize=1024)
def _compiled(template: str) -> Template:
    compiled: Template = lm_eval.utils.env.from_string(template)
    return compiled


def apply_template(template: str, doc: dict[str, Any]) -> str:
    """Render a template with a row's columns; it replaces lm-eval's function of this name.

    lm-eval compiles a template at each use: once per question and once more per shot, which for
    14042 five-shot questions takes longer than everything else together.
    """
    return _compiled(template).render(**doc)


def _load(benchmark: Benchmark, asking: Asking) -> LoadedBenchmark:
    recognised: dict[str, Fingerprint] = {}
    config: dict[str, Any] = {
        **load_yaml(tasks_folder() / f"{benchmark.id}.yaml", resolve_func=True),
        "custom_dataset": dataset_from(
            asking.source,
            unpinned=asking.unpinned,
            noticed=recognised.__setitem__,
            check=benchmark.check_golds,
        ),
    }
    if asking.num_fewshot is not None:
        config["num_fewshot"] = asking.num_fewshot
    if benchmark.id in asking.revisions:
        pinned = {"revision": asking.revisions[benchmark.id]}
        config["dataset_kwargs"] = {**config["dataset_kwargs"], **pinned}
    task = ConfigurableTask(config=config)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)  # shots are fixed, save where --num-fewshot adds some
    loaded = LoadedBenchmark(benchmark, task, recognised[benchmark.id], len(task.eval_docs), [])
    docs = task.eval_docs
    for doc_id in choose([loaded.stratum(doc) for doc in docs], asking.limit):
        loaded.questions.append(_question(loaded, doc_id, docs[doc_id]))
    return loaded


def _question(loaded: LoadedBenchmark, doc_id: int, doc: Mapping[str, Any]) -> Question:
    """Build a question's requests with the calls that lm-eval's `build_all_requests` makes."""
    task, config = loaded.task, loaded.task.config
    context = task.fewshot_context(
        doc, num_fewshot=config.num_fewshot or 0, gen_prefix=task.doc_to_prefix(doc)
    )
    built = task.construct_requests(
        doc=doc, ctx=context, metadata=(config.task, doc_id, config.repeats)
    )
    requests = [
        request_of(instance, sample, loaded.settings)
        for instance in (built if isinstance(built, list) else [built])
        for sample in range(instance.repeats or 1)
    ]
    return Question(doc_id, doc, requests)


def choose(strata: Sequence[object], limit: Limit | None) -> list[int]:
    """The row numbers that a limited run asks, the same on every machine.

    Each stratum (subject) gives as nearly the same number as it can, and within a stratum the rows
    are evenly spaced. Without strata pass the same value for each row.

    Args:
        strata: Each row's stratum.
        limit: As `parse_limit` returns it.
    """
    total = len(strata)
    if limit is None:
        return list(range(total))
    wanted = limit if isinstance(limit, int) else math.ceil(total * limit)
    if wanted >= total:
        return list(range(total))
    rows: dict[object, list[int]] = {}
    for index, stratum in enumerate(strata):
        rows.setdefault(stratum, []).append(index)
    quotas = _even_quotas([len(members) for members in rows.values()], wanted)
    picked = [
        members[i * len(members) // quota]
        for members, quota in zip(rows.values(), quotas, strict=True)
        for i in range(quota)
    ]
    return sorted(picked)


def _even_quotas(sizes: Sequence[int], wanted: int) -> list[int]:
    """Equal shares; what a small stratum cannot give, and the remainder, goes round the others."""
    quotas = [0] * len(sizes)
    while wanted > 0:
        open_ = [i for i, size in enumerate(sizes) if quotas[i] < size]
        share = max(1, wanted // len(open_))
        spread = open_ if wanted >= len(open_) else _spaced(open_, wanted)
        for i in spread:
            given = min(share, sizes[i] - quotas[i], wanted)
            quotas[i] += given
            wanted -= given
    return quotas


def _spaced(items: Sequence[int], count: int) -> list[int]:
    return [items[i * len(items) // count] for i in range(count)]


def shot_rows(rows: Rows) -> Sequence[Row]:
    """Return the rows of the shots' split, which a YAML file's `fewshot_config` names.

    lm-eval shows a sampler the question only if the shots' split is the test split. Therefore the
    YAML file states the test split, and this function swaps in the other one.
    """
    return list(rows.splits.values())[1]


class MatchingShots(ContextSampler):
    """A few-shot sampler that takes the first rows whose column `by` equals the question's."""

    by: str

    def __init__(self, df: Sequence[Row] | None = None, **kwargs: Any) -> None:
        super().__init__(df, **kwargs)
        self._groups: dict[object, list[Row]] = defaultdict(list)
        for row in df or ():
            self._groups[row[self.by]].append(row)

    def sample(
        self,
        n: int,
        eval_doc: Mapping[str, Any] | None = None,
        df: Sequence[Row] | None = None,  # noqa: ARG002  lm-eval's signature
        **_: Any,
    ) -> Sequence[Row]:
        """Return the first `n` matching rows, in order.

        Raises:
            TaskError: Fewer than `n` rows match.
        """
        value = eval_doc[self.by] if eval_doc else None
        rows = self._groups.get(value, [])
        if len(rows) < n:
            raise TaskError(
                f"The {self.by} {value} should have {n} solved examples, but has {len(rows)}. "
                f"Ask for at most {len(rows)} shots with --num-fewshot."
            )
        return rows[:n]


def __getattr__(name: str) -> type[MatchingShots]:
    """Make the sampler that a YAML file names: `shots_by_<column>`."""
    by = name.removeprefix("shots_by_")
    if by == name:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return type(name, (MatchingShots,), {"by": by})
