"""Curves over training steps: which runs they are made of, and how they are drawn."""

from dataclasses import replace

from mistral_eval.record.run_record import StepRecord, read_record
from mistral_eval.report.html.charts import training_chart
from mistral_eval.report.html.training import curves, table


def trained(run, model, step=None, **changes):
    """Return a run as one of a model with a training step, and with other settings."""
    settings = run.settings.model_copy(update={"model": model})
    found = step and StepRecord(number=step, source="its name")
    return run.model_copy(update={"settings": settings, "step": found, **changes})


def test_a_curve_is_of_the_checkpoints_in_one_folder_in_order_of_step(sample_runs):
    right, chance = (read_record(sample_runs[name]) for name in ("oracle", "random"))
    runs = [
        trained(chance, "/runs/b/checkpoint-1200", 1200),
        trained(right, "/runs/a/step-3", 3),
        trained(right, "/runs/b/checkpoint-40", 40),
        trained(right, "org/model"),
        trained(chance, "/runs/b/again/checkpoint-40", 40),
        trained(chance, "/runs/b/checkpoint-40", 40),
        trained(right, "/runs/b/checkpoint-1200", 1200, scores={"nq": right.scores["nq"]}),
    ]
    found = curves(runs)
    steps = {
        task: [(one.name, [step for step, _ in one.points]) for one in lines]
        for task, lines in found.items()
    }
    assert steps.keys() == right.scores.keys()
    assert steps["mmlu"] == [("b", [40, 1200])]
    assert steps["nq"] == [("b", [40, 1200]), ("b (2)", [40, 1200])]
    assert [interval.value for _, interval in found["mmlu"][0].points] == [
        100.0,
        chance.scores["mmlu"].value,
    ]
    names = {one.name: one.color for lines in found.values() for one in lines}
    assert len(set(names.values())) == len(names)
    header, rows = table(found).header, table(found).rows
    assert header == ("Training", "Step", "MMLU", "WinoG", "NQ", "GSM8K")
    assert [row[:2] for row in rows] == [(n, s) for n in names for s in ("40", "1,200")]
    low = f"{right.scores['mmlu'].low:.1f}"
    assert rows[0][2] == f"100.0 [{low}, 100.0]"
    assert rows[2][2] == ""  # a curve of one point is none


def test_a_curve_names_its_benchmark_and_trainings_for_screen_readers(sample_runs):
    right = read_record(sample_runs["oracle"])
    runs = [trained(right, f"/runs/<b>/checkpoint-{step}", step) for step in (1000, 20000)]
    drawn = training_chart(curves(runs)["nq"], "nq")
    assert ">NQ by training step: &lt;b&gt;</title>" in drawn
    assert ">20,000</text>" in drawn


def test_runs_without_a_step_or_a_single_one_make_no_curve(sample_runs):
    right = read_record(sample_runs["oracle"])
    assert curves([right, right]) == {}
    assert curves([trained(right, "/a/step-1", 1), trained(right, "/b/step-2", 2)]) == {}


def test_a_cell_without_questions_is_no_point(sample_runs):
    right = read_record(sample_runs["oracle"])
    nothing = replace(right.scores["nq"], n=0)
    runs = [trained(right, f"/a/step-{n}", n, scores={"nq": right.scores["nq"]}) for n in (1, 2)]
    runs.append(trained(right, "/a/step-3", 3, scores={"nq": nothing}))
    ((line,),) = curves(runs).values()
    assert [step for step, _ in line.points] == [1, 2]
