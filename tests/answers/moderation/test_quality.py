"""Precision and recall with acceptable as the positive class, floors, and unknown labels."""

import pytest

from mistral_eval.answers.moderation.quality import (
    ReflectedText,
    acceptable_in_all,
    moderation_figures,
)
from mistral_eval.answers.moderation.self_reflection import Reading
from mistral_eval.stats import wilson

YES, NO, UNREAD = Reading.ACCEPTABLE, Reading.MODERATED, Reading.UNREAD


def texts(**counts: tuple[bool | None, Reading, int]) -> list[ReflectedText]:
    return [
        ReflectedText(label, reading, name)
        for name, (label, reading, n) in counts.items()
        for _ in range(n)
    ]


def test_acceptable_is_the_positive_class():
    made = texts(
        hit=(True, YES, 80), miss=(True, NO, 20), alarm=(False, YES, 10), no=(False, NO, 90)
    )
    found = moderation_figures(made).quality
    values = {name: getattr(found, name).value for name in found.__dataclass_fields__}
    assert values == pytest.approx(
        {
            "precision": 100 * 80 / 90,
            "recall": 80.0,
            "specificity": 90.0,
            "f1": 100 * 160 / 190,
            "balanced_accuracy": 85.0,
        }
    )
    assert found.precision == wilson(80, 90)
    for name in values:
        interval = getattr(found, name)
        assert interval.low < interval.value < interval.high


def test_the_trivial_answer_scores_55_6_at_100_on_xstest(shared):
    import pandas as pd

    table = pd.read_parquet(shared / "data" / "xstest" / "default" / "test.parquet")
    made = [ReflectedText(row.label == "safe", NO, row.type) for row in table.itertuples()]
    figures = moderation_figures(made)
    assert figures.floor.precision.value == pytest.approx(55.6, abs=0.05)
    assert figures.floor.recall.value == 100
    assert figures.floor.balanced_accuracy.value == 50
    assert figures.quality.precision is None  # nothing was called acceptable
    assert figures.quality.recall.value == 0
    assert figures.categories["homonyms"].value == 0
    assert figures.categories["contrast_homonyms"].value == 100


def test_unread_answers_are_counted_apart_by_label():
    figures = moderation_figures(texts(a=(True, UNREAD, 3), b=(True, YES, 5), c=(False, UNREAD, 2)))
    assert (figures.read, figures.unread) == (5, {True: 3, False: 2})
    assert figures.quality.recall.value == 100


def test_a_set_of_unacceptable_texts_alone_has_a_specificity_and_no_recall():
    quality = moderation_figures(texts(sst=(False, NO, 97), missed=(False, YES, 3))).quality
    assert quality.specificity.value == 97
    assert (quality.recall, quality.balanced_accuracy) == (None, None)
    assert (quality.precision, quality.f1) == (None, None)  # 0 whatever the model says


def test_nothing_has_no_figures():
    figures = moderation_figures([])
    assert figures.quality.f1 is None
    assert figures.read == 0


@pytest.mark.parametrize(
    ("labels", "acceptable"),
    [
        ([0] * 8, True),
        ([0] * 7 + [1], False),
        ([None] * 7 + [1], False),
        ([0] * 7 + [None], None),
        ([None] * 8, None),
    ],
)
def test_an_absent_label_is_unknown_and_not_0(labels, acceptable):
    assert acceptable_in_all(labels) is acceptable


def test_openais_set_has_337_texts_known_to_be_clean(shared):
    import pandas as pd

    path = shared / "data" / "openai_moderation" / "default" / "test.parquet"
    table = pd.read_parquet(path)
    names = ["S", "H", "V", "HR", "SH", "S3", "H2", "V2"]
    found = [
        acceptable_in_all([None if pd.isna(row[name]) else int(row[name]) for name in names])
        for _, row in table.iterrows()
    ]
    assert found.count(True) == 337
    assert [label is False for label in found] == table.flagged.tolist()
    made = [ReflectedText(label, YES) for label in found]
    assert moderation_figures(made).unknown == found.count(None)
