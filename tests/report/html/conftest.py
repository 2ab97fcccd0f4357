"""Reports to open, a run whose model is hostile, and a browser without a network."""

import json
import shutil
from pathlib import Path

import pytest

from mistral_eval.record.run_folder import RUN_FILE
from mistral_eval.record.sample_files import read_rows
from mistral_eval.report.html import write_report

HOSTILE = (
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 2'>",
    "</script></pre><script>window.pwned = 3</script><!-- <script>",
    "<svg onload=window.pwned=4><a href=javascript:window.pwned=5>x</a>",
    "abc\u202edcba\u2066x\u0000y\ufeff\u200bz\ud800!",
    "&lt;b&gt; &amp; ${window.pwned=6} {{7*7}} ]]> \\u003cscript\\u003e",
    "\r\n\r\t line\u2028separator \x1b[31mred\x1b[0m",
    "__proto__",
)


@pytest.fixture(scope="session")
def hostile_run(sample_runs, tmp_path_factory) -> Path:
    """A run whose name, replies, answers, reasons and subjects try to break out."""
    folder = shutil.copytree(sample_runs["random"], tmp_path_factory.mktemp("hostile") / "run")
    run = json.loads((folder / RUN_FILE).read_text())
    run["engine"] = "native"
    run["settings"]["model"] = "<script>window.pwned = 8</script>$\\frac{1$"
    (folder / RUN_FILE).write_text(json.dumps(run))
    mmlu = next(folder.glob("samples_mmlu_*.jsonl"))
    first, *rows = list(read_rows(mmlu))
    first["resps"] = [[["-inf", "False"]], *first["resps"][1:]]
    mmlu.write_text("".join(json.dumps(row) + "\n" for row in (first, *rows)))
    for task in ("gsm8k", "nq"):
        file = next(folder.glob(f"samples_{task}_*.jsonl"))
        rows = list(read_rows(file))
        for place, row in enumerate(rows):
            text = HOSTILE[place % len(HOSTILE)]
            verdict = row["verdict"]
            row["resps"] = [[text] * len(row["resps"][0])]
            verdict |= {"answer": text, "reason": text, "outcome": "no_answer"}
            for sample in verdict["samples"]:
                sample |= {"answer": text, "reason": text, "outcome": "no_answer"}
            row["stratum"] = text if place % 2 else None
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def report(sample_runs, hostile_run, tmp_path_factory) -> Path:
    """A report of the oracle, of chance and of a hostile model."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report([sample_runs["oracle"], sample_runs["random"], hostile_run], file)
    return file


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium whose network is cut."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    opened.execute_cdp_cmd("Network.enable", {})
    opened.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    yield opened
    opened.quit()
