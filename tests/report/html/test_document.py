"""The report's own words and drawings, read without a browser."""

import re
import xml.etree.ElementTree as ET

import pytest

from mistral_eval.console import Talk
from mistral_eval.errors import OutputError
from mistral_eval.record.run_record import CountsRecord, read_record
from mistral_eval.report.html import write_report
from mistral_eval.report.html.charts import spaced
from mistral_eval.report.html.svg import RUNS, draw
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings


@pytest.fixture(scope="module")
def text(report):
    return report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text_of_a_model(tmp_path_factory):
    """The report of a model's run with half of Comprehension."""
    folder = tmp_path_factory.mktemp("model")
    settings = RunSettings(
        tasks=("mmlu", "boolq"), model="tiny", data="sample", limit=2, output_path=folder
    )
    file = folder / "report.html"
    write_report([run_suite(settings, Talk(quiet=True))], file)
    return file.read_text(encoding="utf-8")


def test_a_report_asks_for_nothing_from_outside(text):
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', text) == []
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert text.count("<script>") == 1


def test_every_section_is_linked_and_every_id_is_given_once(text):
    page = text[: text.index('<script type="text/plain"')]
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert sorted(set(ids)) == sorted(ids)
    for link in re.findall(r'href="#([^"=]+)"', page):
        assert link in ids


def test_the_sections_are_all_there(text):
    for title in ("Scores", "Figures", "Comparison", "Subjects", "Questions", "Time and counts"):
        assert f">{title}</h2>" in text
    assert "Protocol and data of oracle" in text
    assert "MMLU by subject" in text
    assert "Failed: random is worse than oracle" in text


def test_a_model_is_compared_with_the_paper_s_mistral_7b(text_of_a_model):
    against = re.findall(r"Reproduced\? tiny against (.*?) as published", text_of_a_model)
    assert set(against) == {"Mistral 7B"}


def test_a_missing_panel_of_figure_5_is_explained(text_of_a_model):
    note = '<p class="about">Comprehension: tiny lacks QuAC, so it has no size.</p>'
    assert text_of_a_model.count(note) == 1
    assert "figure-5-mmlu" in text_of_a_model
    assert "figure-5-comprehension" not in text_of_a_model


def test_published_means_have_the_decimals_of_the_table(text_of_a_model):
    drawn = text_of_a_model[: text_of_a_model.index("Figure 4 as a table")]
    assert "Mistral 7B 60.10" in drawn
    assert "Mistral 7B ≈64.4" in drawn


def test_a_single_run_has_no_comparison(sample_runs, tmp_path):
    file = tmp_path / "one.html"
    write_report([sample_runs["oracle"]], file)
    assert '<section id="comparison">' not in file.read_text(encoding="utf-8")


def test_the_same_runs_give_the_same_bytes(sample_runs, tmp_path):
    files = [tmp_path / "a.html", tmp_path / "b.html"]
    for file in files:
        write_report([sample_runs["random"]], file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_file_that_cannot_be_written_is_said_in_a_sentence(sample_runs, tmp_path):
    with pytest.raises(OutputError, match="Name a file that can be written"):
        write_report([sample_runs["oracle"]], tmp_path / "nowhere" / "report.html")


def test_runs_that_cannot_be_compared_are_shown_with_the_reason(cli, sample_runs, tmp_path):
    import json
    import shutil

    other = shutil.copytree(sample_runs["random"], tmp_path / "run")
    run = json.loads((other / "run.json").read_text())
    run["settings"]["num_fewshot"] = 3
    (other / "run.json").write_text(json.dumps(run))
    file = tmp_path / "report.html"
    code, out, err = cli("report", sample_runs["oracle"], other, "-o", file)
    assert (code, out) == (0, "")
    assert f"{file}: 0." in err
    assert "Not compared. mmlu was not run under the same protocol" in file.read_text("utf-8")


def test_a_drawing_is_sound_xml_in_the_page_s_colours_with_its_texts_as_texts():
    name = "<b>&\"'$x_1$ 漢字"
    drawn = draw("a-name", name, (3, 2), lambda axes: axes.barh([name], [3], color=RUNS[0]))
    root = ET.fromstring(drawn.replace("xlink:href", "href"))
    texts = {"".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")}
    assert name in texts
    assert root.find("{http://www.w3.org/2000/svg}title").text == name
    assert "var(--run-0)" in drawn
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) <= {"#ffffff", "#000000"}


def test_tokens_saved_and_speed_are_computed_from_the_run_s_counts(sample_runs):
    from mistral_eval.report.html.provenance import speed

    engine = {
        "score_naive": 700,
        "score_unique": 150,
        "score_computed": 160,
        "prompt_naive": 300,
        "prompt_unique": 85,
        "prompt_computed": 90,
        "generated": 50,
        "score_seconds": 1.0,
        "generate_seconds": 2.5,
    }
    run = read_record(sample_runs["oracle"])
    counts = CountsRecord(computed=12, from_log=0, engine=engine)
    counted = run.model_copy(update={"seconds": {"answer": 3.5}, "counts": counts})
    bare = run.model_copy(update={"seconds": {}, "counts": CountsRecord(computed=0, from_log=0)})
    rows = {row[0]: row[1:] for row in speed([counted, bare], ["a", "b"]).rows}
    assert rows["prompt tokens saved by sharing, %"] == ("75", "—")
    assert rows["tokens drawn a second"] == ("20", "—")
    assert rows["seconds answering"] == ("3.5", "—")
    assert rows["replies computed"] == ("12", "0")


@pytest.mark.parametrize(
    ("places", "moved"),
    [
        ((1.0, 5.0, 9.0), [1.0, 5.0, 9.0]),
        ((5.0, 5.0, 1.0), [5.0, 7.0, 1.0]),
        ((5.5, 5.0, 5.2), [9.0, 5.0, 7.0]),
        ((), []),
    ],
)
def test_labels_do_not_overlap(places, moved):
    assert spaced(places, 2.0) == pytest.approx(moved)


def test_a_panel_without_any_run_is_not_drawn(sample_runs, tmp_path):
    """The runs have MMLU, some of Reasoning and nothing of Comprehension."""
    file = tmp_path / "report.html"
    write_report([sample_runs["random"]], file)
    page = file.read_text(encoding="utf-8")
    assert "figure-4-mmlu" in page
    assert "figure-4-comprehension" not in page
    assert re.search(r"<b>Reasoning \(\d of 8\) lacks ", page)
    assert "figure-5-reasoning" not in page


def test_the_title_names_two_runs_or_counts_them_and_the_method_is_said_once(sample_runs, tmp_path):
    file = tmp_path / "report.html"
    write_report([sample_runs["oracle"], sample_runs["random"]], file)
    assert "<h1>Evaluation of oracle and random</h1>" in file.read_text(encoding="utf-8")
    write_report([*sample_runs.values(), sample_runs["random"]], file)
    assert "<h1>Evaluation of oracle and 3 more runs</h1>" in file.read_text(encoding="utf-8")
    write_report(list(sample_runs.values()), file)
    page = file.read_text(encoding="utf-8")
    assert "<h1>Evaluation of oracle, random and oracle-wrong</h1>" in page
    assert page.count("corrected by Holm over all rows") == 1
