"""The report as a reader meets it: in a real browser, from a file, without a network."""

import json
import shutil
import time

import pytest

from mistral_eval.console import Talk
from mistral_eval.record.comparison import compare_against
from mistral_eval.record.run_record import read_record
from mistral_eval.record.sample_files import halves_of, load_samples, read_rows, sample_files
from mistral_eval.report.html import write_report
from mistral_eval.run.run import run_suite
from mistral_eval.settings import RunSettings
from mistral_eval.suite.registry import BY_ID

PATIENCE = 120.0  # seconds that a busy machine may take


class Page:
    """A report, opened."""

    def __init__(self, browser, file, fragment="", *, width=1440, dark=False):
        self.browser = browser
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme], "media": ""})
        browser.get_log("browser")
        browser.get("about:blank")
        browser.get(f"file://{file}{fragment}")
        self.opened = int(self.until("return document.documentElement.dataset.ready"))

    def js(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def until(self, script, *arguments, wanted=None):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = self.js(script, *arguments)
            if found and (wanted is None or found == wanted):
                return found
            time.sleep(0.05)
        pytest.fail(f"{script}: wanted {wanted!r}, found {found!r}")

    def choose(self, name, value):
        self.js(
            "const node = document.getElementById(arguments[0]); node.value = arguments[1];"
            "node.dispatchEvent(new Event(node.type === 'search' ? 'input' : 'change'))",
            name,
            value,
        )

    def count(self, wanted):
        """Wait until the list holds so many questions."""
        text = "return document.getElementById('count').textContent.split(' of ')[0]"
        ending = "return !document.getElementById('count').textContent.includes('still')"
        self.until(text, wanted=f"{wanted:,}")
        self.until(ending)

    def heading(self, wanted):
        heading = "return document.getElementById('question-title')?.textContent"
        return self.until(heading, wanted=wanted)

    def shown(self):
        return self.js("return document.getElementById('question').textContent")

    def press(self, key):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(key).perform()

    def errors(self):
        return [entry["message"] for entry in self.browser.get_log("browser")]


def main_thread_seconds(browser):
    """The processor time of the page that is open, in its thread that draws and runs scripts."""
    found = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(one["value"] for one in found if one["name"] == "ThreadTime")


def rows_of(run, task):
    return list(read_rows(sample_files(read_record(run), run)[task]))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_report_opens_without_error_or_request_and_fits_the_window(
    browser, report, width, dark
):
    page = Page(browser, report, "#q=gsm8k/1", width=width, dark=dark)
    page.heading("GSM8K 1")
    assert page.js("return document.documentElement.scrollWidth") <= width
    assert page.js("return performance.getEntriesByType('resource').map((one) => one.name)") == []
    assert page.errors() == []


def test_a_choice_shows_what_its_question_adds_to_its_likelihood(browser, tmp_path):
    """The difference that decides stands beside each log-likelihood; each choice stands once."""
    settings = RunSettings(
        tasks=("openbookqa",), engine="random", data="sample", output_path=tmp_path
    )
    run = run_suite(settings, Talk(quiet=True))
    write_report([run], tmp_path / "report.html")
    page = Page(browser, tmp_path / "report.html", "#q=openbookqa/0")
    page.heading("OpenbookQA 0")
    row = rows_of(run, "openbookqa")[0]
    asked, alone = halves_of("openbookqa", row)
    gains = [logprob - without for (_, logprob), without in zip(asked, alone, strict=True)]
    shown = page.js(
        "return [...document.querySelectorAll('.choices tbody td small')].map((n) => n.textContent)"
    )
    assert [float(text) for text in shown] == pytest.approx(gains, abs=2e-3)
    (chosen,) = page.js(
        "return [...document.querySelectorAll('td.is-chosen')].map((n) => n.textContent)"
    )
    assert shown[gains.index(max(gains))] in chosen
    assert "its difference to that without the question, which decides" in page.shown()
    assert page.errors() == []


def test_filters_list_what_the_files_hold(browser, report, sample_runs):
    page = Page(browser, report)
    page.choose("benchmark", "mmlu")
    page.choose("run", "1")
    page.choose("verdict", "w")
    rows = rows_of(sample_runs["random"], "mmlu")
    wrong = [row for row in rows if row["verdict"]["outcome"] == "wrong"]
    page.count(len(wrong))
    subject = wrong[0]["stratum"]
    inside = [row for row in wrong if row["stratum"] == subject]
    page.choose("subject", subject)
    page.count(len(inside))
    titles = "return [...document.querySelectorAll('.row .title')].map((row) => row.textContent)"
    page.until(titles, wanted=[_flat(row["doc"]["question"]) for row in inside])
    page.js("document.getElementById('reset').click()")
    every = load_samples([sample_runs["random"]])[0].benchmarks.values()
    page.count(sum(len(one.questions) for one in every))
    assert page.errors() == []


def test_words_are_found_in_questions_and_in_replies(browser, report, sample_runs):
    page = Page(browser, report)
    words = "How many"
    rows = rows_of(sample_runs["random"], "gsm8k")
    hits = [row for row in rows if words.lower() in row["doc"]["question"].lower()]
    assert 0 < len(hits) < len(rows)
    page.choose("benchmark", "gsm8k")
    page.choose("words", words)
    page.count(len(hits))
    page.choose("words", rows[3]["resps"][0][5])
    page.until("return document.querySelector('.row .about').textContent", wanted="GSM8K · 3")
    page.choose("words", "no question has these words")
    page.count(0)


def test_flips_are_those_of_the_comparison(browser, report, sample_runs):
    reference, *others = load_samples([sample_runs[name] for name in ("oracle", "random")])
    (compared,) = compare_against(reference, others)
    found = {one.id: one for one in compared.benchmarks}
    page = Page(browser, report, "#f=lost&r=1")
    page.count(sum(one.only_a for one in found.values()))
    page.choose("benchmark", "winogrande")
    page.count(found["winogrande"].only_a)
    page.choose("flip", "gained")
    page.count(found["winogrande"].only_b)
    page.choose("flip", "any")
    page.count(len(found["winogrande"].flips))


def test_a_link_opens_its_question_with_prompt_replies_and_gold(browser, report, sample_runs):
    page = Page(browser, report, "#q=gsm8k/3&b=gsm8k")
    page.heading("GSM8K 3")
    row = rows_of(sample_runs["random"], "gsm8k")[3]
    text = page.shown()
    prompt = "return [...document.querySelectorAll('.prompt pre')].map((one) => one.textContent)"
    assert "".join(page.js(prompt)) == row["arguments"]["gen_args_0"]["arg_0"]
    assert all(reply in text for reply in row["resps"][0])
    assert f"Gold: {row['doc']['answer'].rpartition('####')[2].strip()}" in text
    assert row["verdict"]["reason"] in text
    chosen = "return document.querySelector('.row[aria-selected=true] .about').textContent"
    assert page.js(chosen) == "GSM8K · 3"


def test_a_choice_shows_its_likelihood_and_marks_gold_and_chosen(browser, report, sample_runs):
    page = Page(browser, report, "#q=mmlu/0")
    first = rows_of(sample_runs["random"], "mmlu")[0]
    page.js("location.hash = arguments[0]", f"#q=mmlu/{first['doc_id']}")
    page.heading(f"MMLU {first['doc_id']}")
    cells = page.js(
        "return [...document.querySelectorAll('.choices tbody tr')].map("
        "(row) => [...row.cells].map((cell) => cell.textContent))"
    )
    assert [cell[0] for cell in cells] == [
        f"{'gold' if place == first['doc']['answer'] else ''}{letter}"
        for place, letter in enumerate("ABCD")
    ]
    chosen = first["verdict"]["answer"]
    assert [cell[2] for cell in cells] == [
        f"{'chosen ' if letter == chosen else ''}{float(reply[0][0]):.2f}"
        for letter, reply in zip("ABCD", first["resps"], strict=True)
    ]
    assert cells[0][3].endswith("-∞")  # a likelihood of zero is a number too


def test_a_link_to_no_question_says_so(browser, report):
    page = Page(browser, report, "#q=mmlu/99999")
    page.until("return document.querySelector('#question [role=alert]')?.textContent")
    assert page.errors() == []


def test_a_link_with_filters_that_do_not_exist_shows_everything(browser, report, sample_runs):
    page = Page(browser, report, "#b=../../etc&v=zz&f=constructor&r=-7&s=none&q=__proto__/1")
    page.until("return document.querySelector('#question [role=alert]')?.textContent")
    everything = int(page.js("return document.querySelectorAll('#benchmark option').length"))
    assert everything == 5
    count = page.js("return document.getElementById('count').textContent")
    shown, total = (part.split()[0] for part in count.split(" of "))
    assert shown == total
    assert page.errors() == []


def test_the_keyboard_reaches_everything(browser, report):
    page = Page(browser, report, "#b=nq")
    page.press("j")
    page.heading("NQ 0")
    page.press("j")
    page.heading("NQ 1")
    page.press("k")
    page.heading("NQ 0")
    page.press("/")
    assert page.js("return document.activeElement.id") == "words"
    page.press("\ue00c")  # Escape
    assert page.js("return document.activeElement.id") == "list"
    page.press("\ue015")  # arrow down
    page.heading("NQ 1")
    page.press("\ue010")  # End
    assert page.until("return document.getElementById('question-title').textContent !== 'NQ 1'")
    page.press("\ue007")  # Enter
    page.until("return document.activeElement.id", wanted="question-title")


def test_on_a_phone_a_question_takes_the_place_of_the_list_and_gives_it_back(browser, report):
    page = Page(browser, report, "#b=nq", width=390)
    visible = "return document.getElementById(arguments[0]).checkVisibility()"
    assert page.js(visible, "list")
    page.js("document.querySelector('.row').click()")
    page.heading("NQ 0")
    assert not page.js(visible, "list")
    page.js("document.getElementById('back').click()")
    assert page.js(visible, "list")


@pytest.mark.parametrize("task", ["gsm8k", "nq"])
def test_hostile_texts_are_shown_as_texts_and_nothing_of_them_runs(
    browser, report, hostile_run, task
):
    page = Page(browser, report, f"#b={task}")
    made = "return document.querySelectorAll(arguments[0]).length"
    for row in rows_of(hostile_run, task)[:8]:
        page.js("location.hash = arguments[0]", f"#q={task}/{row['doc_id']}&b={task}")
        page.heading(f"{BY_ID[task].column} {row['doc_id']}")
        assert _visible(row["resps"][0][0]) in page.shown()
        assert page.js(made, "#questions :is(img, script, svg, iframe, a)") == 0
    assert page.js(made, "main :is(script, img, iframe, a[href^=java])") == 0
    assert page.js("return window.pwned") is None
    assert page.errors() == []


def test_a_hostile_name_of_a_model_is_text_in_title_table_and_drawings(browser, report):
    page = Page(browser, report)
    name = "<script>window.pwned = 8</script>"
    assert name in page.js("return document.title")
    assert name in page.js("return document.querySelector('h1').textContent")
    drawn = "return document.querySelector('main svg').textContent"
    assert name[:20] in page.js(drawn)
    assert name in page.js("return document.querySelector('tr.run:last-child th').textContent")
    assert page.js("return window.pwned") is None


def test_the_page_s_policy_lets_no_other_script_run(browser, report):
    page = Page(browser, report)
    page.js(
        "const made = document.createElement('script'); made.textContent = 'window.pwned = 9';"
        "document.body.append(made); document.body.insertAdjacentHTML('beforeend',"
        " '<button onclick=\"window.pwned = 10\" id=trap>x</button>');"
        "document.getElementById('trap').click()"
    )
    assert page.js("return window.pwned") is None
    assert "Content Security Policy" in " ".join(page.errors())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_stand_out_from_their_ground(browser, report, dark):
    """WCAG 2 AA: 4.5 to 1."""
    page = Page(browser, report, "#q=gsm8k/1", dark=dark)
    page.heading("GSM8K 1")
    ground = page.js("return getComputedStyle(document.body).backgroundColor")
    assert (sum(_channels(ground)) < 200) is dark
    for query in ("body", ".about", ".tag.c", ".tag.w", "nav a", "figure text", "summary"):
        color = page.js(
            "const style = getComputedStyle(document.querySelector(arguments[0]));"
            "return arguments[0].endsWith('text') ? style.fill : style.color",
            query,
        )
        assert _contrast(color, ground) >= 4.5, (query, color, ground)


def test_every_control_and_drawing_has_a_name_for_a_screen_reader(browser, report):
    page = Page(browser, report, "#q=nq/0")
    page.heading("NQ 0")
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"combobox", "searchbox", "button", "link", "listbox", "option", "img", "region"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node["ignored"] and node["role"]["value"] in roles
    ]
    assert {role for role, _ in named} >= {"combobox", "button", "link", "listbox", "option"}
    assert [role for role, name in named if not name.strip()] == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_paper_the_question_is_printed_dark_on_light_without_the_list(browser, report, dark):
    page = Page(browser, report, "#q=nq/0", dark=dark)
    page.heading("NQ 0")
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [scheme]})
    assert sum(_channels(page.js("return getComputedStyle(document.body).color"))) < 200
    visible = "return document.getElementById(arguments[0]).checkVisibility()"
    assert (page.js(visible, "list"), page.js(visible, "question")) == (False, True)


def test_a_run_of_stock_tasks_alone_has_a_report_without_questions(browser, sample_runs, tmp_path):
    folder = shutil.copytree(sample_runs["random"], tmp_path / "run")
    run = json.loads((folder / "run.json").read_text()) | {"scores": {}, "strata": {}}
    (folder / "run.json").write_text(json.dumps(run))
    write_report([folder], tmp_path / "report.html")
    page = Page(browser, tmp_path / "report.html")
    page.count(0)
    page.press("j")
    assert page.errors() == []


@pytest.mark.slow
def test_the_full_suite_opens_in_two_seconds_and_stays_under_30_mb(
    browser, shared, tmp_path, record_property
):
    from mistral_eval.console import Talk
    from mistral_eval.run.run import run_suite
    from mistral_eval.settings import RunSettings
    from mistral_eval.suite.registry import SUITES

    data = str(shared / "data")
    settings = RunSettings(tasks=SUITES["paper"], engine="random", data=data, output_path=tmp_path)
    file = tmp_path / "report.html"
    write_report([run_suite(settings, Talk(quiet=True))], file)
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    pages = [(Page(browser, file).opened, main_thread_seconds(browser)) for _ in range(3)]
    record_property("milliseconds_to_open_and_seconds_of_work", pages)
    assert file.stat().st_size < 30e6
    assert min(work for _, work in pages) < 2, pages  # other programs' work does not count
    page = Page(browser, file, "#q=gsm8k/1318")
    page.heading("GSM8K 1318")
    page.count(52400)


def _flat(text):
    return " ".join(text.split())[:200]


def _visible(text):
    """A text as the page shows it: what would hide or reorder others is shown by number."""
    hidden = {0, 0x1B, 0x0D, 0x202E, 0x2066, 0xFEFF, 0x200B, 0xD800, 0x2028}
    lines = text.split("\r\n")
    shown = ("".join(f"U+{ord(c):04X}" if ord(c) in hidden else c for c in one) for one in lines)
    return "\r\n".join(shown)


def _channels(color):
    return [float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]


def _contrast(color, ground):
    def luminance(one):
        parts = [value / 255 for value in _channels(one)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dim = sorted((luminance(color), luminance(ground)), reverse=True)
    return (light + 0.05) / (dim + 0.05)
