"""Refusals, ratings and conversations in the report."""

import re

import pytest

from mistral_eval.console import Talk
from mistral_eval.report.html import write_report
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings
from tests.judge_server import JudgeServer, said
from tests.report.html.test_browser import Page

QUIET = Talk(quiet=True)
HOSTILE = "<script>window.pwned = 9</script><img src=x onerror='window.pwned = 10'>"


def by_turn(number, body):
    rating = 5 if "second" in body["messages"][0]["content"] else 8
    return said(f"{HOSTILE} Rating: [[{rating}]]")


@pytest.fixture(scope="module")
def chat_report(tmp_path_factory):
    """A rated run of MT-Bench, refusals without and with a system prompt, and their opposite."""
    folder = tmp_path_factory.mktemp("chat")
    fields = {"data": "sample", "output_path": folder}
    tasks = ("xstest", "simple_safety_tests", "moderation")
    with JudgeServer(by_turn) as judge:
        rated = {"judge_url": judge.url, "judge_model": "judge-1", "tasks": ("mt_bench",)}
        runs = [
            RunSettings(**fields, **rated, engine="random", limit=8),
            RunSettings(**fields, tasks=tasks, engine="oracle"),
            RunSettings(**fields, tasks=tasks, engine="oracle", system_prompt="mistral"),
            RunSettings(**fields, tasks=tasks, engine="oracle-wrong"),
        ]
        folders = [run_suite(settings, QUIET) for settings in runs]
    write_report(folders, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def text(chat_report):
    return chat_report.read_text(encoding="utf-8")


def title_of(text, name):
    return re.search(rf'<title id="{name}-title">(.*?)</title>', text)[1]


def test_refusals_of_unsafe_and_of_safe_prompts_are_drawn_by_system_prompt(text):
    said_ = title_of(text, "refusals")
    assert "prompt mistral; people&#x27;s labels safe 18.8, unsafe 96.5" in said_
    assert re.search(r"oracle, prompt none; XSTest safe [\d.]+, unsafe [\d.]+", said_)
    assert re.search(r"oracle, prompt mistral; SST unsafe [\d.]+;", said_)
    assert "Refused unsafe and refused safe prompts, by system prompt" in text


def test_ratings_are_drawn_by_category(text):
    said_ = title_of(text, "categories-0")
    assert "MT-Bench by category: random, rated by judge-1" in said_
    assert "writing 6.50" in said_
    assert said_.count(" 6.50") == 8


def test_the_tables_stand_below(text):
    section = text[text.index('<section id="chat">') : text.index('<section id="questions"')]
    for title in ("Table 3", "Table 4", "Refusals by system prompt", "Self-reflection"):
        assert title in section
    assert "pairs of answers" not in section


def test_a_run_without_conversations_has_no_such_section(sample_runs, tmp_path):
    write_report([sample_runs["oracle"]], tmp_path / "report.html")
    assert '<section id="chat">' not in (tmp_path / "report.html").read_text(encoding="utf-8")


OPENED = (
    "return [...document.querySelectorAll('#question details[open] > summary')]"
    ".map(n => n.textContent.trim())"
)
SUMMARIES = (
    "return [...document.querySelectorAll('#question summary')].map(n => n.textContent.trim())"
)


def test_turns_ratings_and_judgments_are_read_in_a_browser(browser, chat_report):
    page = Page(browser, chat_report, "#q=mt_bench/0")
    page.heading("MT-Bench answers 0")
    assert [name.split(" ")[:2] for name in page.js(OPENED)] == [["Turn", "1"], ["Turn", "2"]]
    assert page.js(SUMMARIES)[2:] == ["Turn 1: rated 8", "Turn 2: rated 5"]
    assert HOSTILE in page.shown()
    assert page.js("return window.pwned") is None
    assert page.errors() == []


def test_replies_to_unsafe_prompts_are_folded_until_they_are_asked_for(browser, chat_report):
    page = Page(browser, chat_report, "#b=xstest&r=3&s=unsafe")
    page.count(16)  # eight prompts, without a system prompt and with one
    page.js("document.querySelector('#list .row').click()")
    page.until(SUMMARIES)
    assert page.js(OPENED) == []
    assert all(name.startswith("Reply to an unsafe prompt") for name in page.js(SUMMARIES))
    page.choose("subject", "safe")
    page.count(16)  # eight prompts, without a system prompt and with one
    page.js("document.querySelector('#list .row').click()")
    page.until(OPENED)


def test_replies_are_filtered_by_refusal_and_by_category(browser, chat_report):
    page = Page(browser, chat_report, "#r=1")
    page.choose("reading", "full refusal")
    page.count(8 + 16)  # XSTest's unsafe prompts and SimpleSafetyTests
    page.choose("benchmark", "xstest")
    page.count(8)
    page.choose("run", "3")
    page.count(8)  # the opposite: its safe prompts
    page.choose("subject", "unsafe")
    page.count(0)
    page.js("document.getElementById('reset').click()")
    page.choose("benchmark", "mt_bench")
    page.choose("subject", "coding")
    page.count(1)
