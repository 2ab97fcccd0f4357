"""Build the requests that lm-eval would build from a benchmark's YAML file and rows."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import lm_eval.utils
from jinja2 import Template
from lm_eval.api.instance import Instance
from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from mistral_eval.data import Fingerprint, Row, Rows, Source, dataset_from
from mistral_eval.data.task_file import tasks_folder
from mistral_eval.engines.interface import GenerationSettings, Kind, Request
from mistral_eval.engines.lm_eval_model import FEWSHOT_SEED, request_of, settings_of
from mistral_eval.errors import TaskError
from mistral_eval.model.chat.messages import USER, Messages
from mistral_eval.settings import Limit, RunSettings
from mistral_eval.suite.benchmark import Benchmark
from mistral_eval.suite.registry import BY_ID
from mistral_eval.suite.system_prompts import system_text


@dataclass(slots=True)
class Question:
    """One question with its requests: one per choice, or one per sample of its prompt."""

    doc_id: int
    doc: Mapping[str, Any]
    requests: list[Request]


@dataclass
class LoadedBenchmark:
    """A benchmark with its rows and requests.

    Attributes:
        task: lm-eval's task over our rows.
        fingerprint: The identity of the rows.
        total: Number of questions in the whole test set.
        questions: The questions of this run, in the test set's order.
        asked_as: How questions are asked if not as the protocol has it; see `RunSettings`.
    """

    benchmark: Benchmark
    task: ConfigurableTask
    fingerprint: Fingerprint
    total: int
    questions: list[Question]
    asked_as: str = ""

    @property
    def kind(self) -> Kind:
        """The kind of the benchmark's requests: "score" or "generate"."""
        return "score" if self.task.OUTPUT_TYPE == "multiple_choice" else "generate"

    @property
    def requests(self) -> list[Request]:
        """All requests, in the order of the questions."""
        return [request for question in self.questions for request in question.requests]

    @cached_property
    def settings(self) -> GenerationSettings | None:
        """The generation settings; None if choices are scored."""
        if self.kind == "score":
            return None
        return settings_of(self.task.config.generation_kwargs)

    def settings_for(self, doc: Mapping[str, Any]) -> GenerationSettings | None:
        """Return the generation settings of one question, whose temperature may be its own."""
        temperature = self.benchmark.task.data.temperatures.get(self.stratum(doc) or "")
        if self.settings is None or temperature is None:
            return self.settings
        return replace(self.settings, temperature=temperature)

    def kwargs_for(self, doc: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return one question's generation settings in lm-eval's words."""
        kwargs: Mapping[str, Any] = self.task.config.generation_kwargs
        settings = self.settings_for(doc)
        if settings is None or settings == self.settings:
            return kwargs
        own = {"do_sample": settings.is_sampled, "temperature": settings.temperature}
        return {**kwargs, **own}

    def of_iteration(self, iteration: int) -> "LoadedBenchmark":
        """Return the same questions with the samples of another run, which are other draws."""
        if not iteration:
            return self
        first = iteration * self.benchmark.samples
        questions = [
            replace(one, requests=[replace(r, sample=first + r.sample) for r in one.requests])
            for one in self.questions
        ]
        return replace(self, questions=questions)

    def next_turn(self, question: "Question", replies: Sequence[str]) -> Request | None:
        """Return the request that follows the replies to a question; None if nothing does."""
        if self.benchmark.next_message(question.doc, replies) is None:
            return None
        first = question.requests[0]
        context = first.context
        assert isinstance(context, Messages), first  # only conversations have several turns
        for turn, reply in enumerate(replies, 1):
            message = self.benchmark.next_message(question.doc, replies[:turn])
            context = context.replied(reply).asked(str(message))
        return replace(first, context=context, turn=len(replies))

    def later_turns(self, question: "Question", replies: Sequence[str]) -> list[Request]:
        """Return the requests after the first one that led to these replies."""
        turns = (self.next_turn(question, replies[:turn]) for turn in range(1, len(replies)))
        return [request for request in turns if request is not None]

    @property
    def judged_by(self) -> str:
        """The name of the task's filter; lm-eval's metric keys contain it."""
        return str(self.task.config.filter_list[0]["name"])

    def stratum(self, doc: Mapping[str, Any]) -> str | None:
        """Return a question's subject, or None if the benchmark has no subjects."""
        column = self.benchmark.stratum
        return None if column is None else str(doc[column])


@dataclass(frozen=True, slots=True)
class Asking:
    """The settings that choose a run's questions.

    `revisions` maps a benchmark to a branch, tag or commit of the hub; it overrides the YAML file.
    `is_chat` asks questions as conversations, with solved examples as messages of their own if
    `is_multiturn`; `system` is a system prompt before the YAML file's description, in conversations
    and, if `is_system_everywhere`, in texts. `asked_as` says so for people, by whether a benchmark
    is a conversation by its protocol.
    """

    source: Source
    limit: Limit | None
    num_fewshot: int | None
    unpinned: bool
    revisions: Mapping[str, str] = field(default_factory=dict)
    is_chat: bool = False
    is_multiturn: bool = True
    system: str | None = None
    is_system_everywhere: bool = True
    asked_as: Mapping[bool, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: RunSettings, source: Source) -> "Asking":
        """Return the part of a run's settings that chooses its questions."""
        return cls(
            source,
            settings.limit,
            settings.num_fewshot,
            settings.data_unpinned,
            settings.data_revision,
            settings.apply_chat_template,
            settings.fewshot_as_multiturn is not False,
            system_text(settings),
            settings.system_prompt is None,
            {is_chat: settings.asked_as(is_chat=is_chat) for is_chat in (False, True)},
        )


def load_benchmarks(names: Sequence[str], asking: Asking) -> Iterator[LoadedBenchmark]:
    """Load each benchmark's task and rows and build its requests, one benchmark at a time.

    Raises:
        DataError, HubError: rows are missing, malformed or do not match the pinned fingerprint.
    """
    lm_eval.utils.apply_template = apply_template
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns about each custom data set
    for name in names:
        yield _load(BY_ID[name], asking)


@lru_cache(maxsize=1024)
def _compiled(template: str) -> Template:
    compiled: Template = lm_eval.utils.env.from_string(template)
    return compiled


def apply_template(template: str, doc: dict[str, Any]) -> str:
    """Render a template with a row's columns; this replaces lm-eval's function of the same name.

    lm-eval compiles the template for every question and every shot. For 14042 five-shot questions
    that takes longer than all other steps of building requests. Here it is compiled once.
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
    task = task_of(config)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)  # matters only if --num-fewshot adds shots
    fingerprint, total = recognised[benchmark.id], len(task.eval_docs)
    asked_as = asking.asked_as.get(benchmark.is_chat, "")
    loaded = LoadedBenchmark(benchmark, task, fingerprint, total, [], asked_as)
    docs = task.eval_docs
    for doc_id in choose([loaded.stratum(doc) for doc in docs], asking.limit):
        loaded.questions.append(_question(loaded, asking, doc_id, docs[doc_id]))
    return loaded


def task_of(config: Mapping[str, Any]) -> ConfigurableTask:
    """Create lm-eval's task from a YAML file's content, as its own factory does."""
    kind: type[ConfigurableTask] = config.get("class", ConfigurableTask)
    return kind(config=dict(config))


class WithoutQuestion(ConfigurableTask):
    """A multiple-choice task that scores each choice a second time, without its question.

    lm-eval does so for its metric `acc_mutual_info`, always with the empty context. Here the
    context is the YAML file's `unconditional`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def construct_requests(
        self, doc: dict[str, Any], ctx: str | list[str], **kwargs: Any
    ) -> list[Instance]:
        """Return lm-eval's requests, then the same continuations after the other context."""
        asked: list[Instance] = super().construct_requests(doc, ctx, **kwargs)
        context: Any = self.config.metadata["unconditional"]
        first = asked[0].args[0]
        if isinstance(first, Messages):  # the text is then the whole conversation
            context = Messages(((USER, context),), first.system)
        alone = [
            Instance(
                one.request_type,
                doc,
                (context, *one.args[1:]),
                one.idx + len(asked),
                metadata=one.metadata,
            )
            for one in asked
        ]
        return [*asked, *alone]


def _question(
    loaded: LoadedBenchmark, asking: Asking, doc_id: int, doc: Mapping[str, Any]
) -> Question:
    """Build a question's requests with the same calls as lm-eval's `build_all_requests`."""
    task, config = loaded.task, loaded.task.config
    is_chat = asking.is_chat or loaded.benchmark.is_chat
    context = task.fewshot_context(
        doc,
        num_fewshot=config.num_fewshot or 0,
        system_instruction=asking.system if is_chat or asking.is_system_everywhere else None,
        apply_chat_template=is_chat,
        fewshot_as_multiturn=asking.is_multiturn,
        chat_template=_conversation,
        gen_prefix=task.doc_to_prefix(doc),
    )
    built = task.construct_requests(
        doc=doc,
        ctx=context,
        apply_chat_template=is_chat,
        metadata=(config.task, doc_id, config.repeats),
    )
    settings = loaded.settings_for(doc)
    requests = [
        request_of(instance, sample, settings)
        for instance in (built if isinstance(built, list) else [built])
        for sample in range(instance.repeats or 1)
    ]
    return Question(doc_id, doc, requests)


def _conversation(history: Sequence[Mapping[str, str]], **_options: object) -> Any:
    """Return lm-eval's messages as ours, in place of the text that a template would give.

    lm-eval passes what its model's template returns on to the request, whatever it is.
    """
    return Messages.of(history)


def choose(strata: Sequence[object], limit: Limit | None) -> list[int]:
    """Return the sorted row numbers of a limited run; the choice is deterministic.

    The rows are divided as evenly as possible between the strata (subjects) and evenly spaced
    within each stratum. If there are no strata, pass the same value for each row.

    Args:
        strata: Each row's stratum.
        limit: A number of rows, a fraction of them, or None for all.
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
    """Divide `wanted` rows equally between strata; larger strata make up for small ones."""
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
    """Return the rows of the shots' split; a YAML file's `fewshot_config` names this function.

    lm-eval shows a sampler the question only if the shots' split is the test split. Therefore the
    YAML file states the test split, and this function swaps in the other one.
    """
    return list(rows.splits.values())[1]


class MatchingShots(ContextSampler):
    """A few-shot sampler: the first rows with the question's value in column `by`.

    `fewer` allows values that have fewer rows than are asked for: all of them are then shown.
    """

    by: str
    fewer: bool = False

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
            TaskError: Fewer than `n` rows match, and this sampler shows exactly `n`.
        """
        value = eval_doc[self.by] if eval_doc else None
        rows = self._groups.get(value, [])
        if len(rows) < n and not self.fewer:
            raise TaskError(
                f"The {self.by} {value} should have {n} solved examples, but has {len(rows)}. "
                f"Ask for at most {len(rows)} shots with --num-fewshot."
            )
        return rows[:n]


def __getattr__(name: str) -> type[MatchingShots]:
    """Return the sampler class `shots_by_<column>` or `up_to_shots_by_<column>` of a YAML file."""
    prefix, mark, by = name.partition("shots_by_")
    if not mark or prefix not in ("", "up_to_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return type(name, (MatchingShots,), {"by": by, "fewer": prefix == "up_to_"})
