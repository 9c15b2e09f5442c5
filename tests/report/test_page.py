"""The page: what is in it, and what a browser makes of it at the width of a phone and of a desk."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from swingkd import RuleTagger
from swingkd.audit import AuditReport, Interval, MembershipReport
from swingkd.audit.membership import evaluate_attack
from swingkd.privacy import LedgerEntry, PrivacyLedger, PrivacyPlan
from swingkd.report import ModelFacts, load_tokens, model_card, save_tokens, shown_tokens, write_audit, write_card
from swingkd.report.page import Page, shown_spans, write_page
from swingkd.report.page_contents import model_page
from swingkd.report.plots import epsilon_curves, repetition_figure
from swingkd.targets import TemperatureSettings
from tests.report.conftest import report

SECRET = "4711"
TEXTS = [f"hello ann, my pin is {SECRET}. thank you", "call me at ann@example.org <b>now</b>"]


@pytest.fixture
def audit():
    rng = np.random.default_rng(0)
    scores = {"loss": (rng.normal(1, 1, 200), rng.normal(0, 1, 200)), "zlib": (rng.normal(0, 1, 200),) * 2}
    results = tuple(evaluate_attack(name, *sides, resamples=50) for name, sides in scores.items())
    return AuditReport(exposure=report(12.0), membership={"records": MembershipReport(results, scores)})


@pytest.fixture
def tokens(tokenizer):
    return shown_tokens(TEXTS, tokenizer, RuleTagger(), TemperatureSettings())


@pytest.fixture
def page(tmp_path, audit, tokens):
    plan = PrivacyPlan(noise_multiplier=1.0, sampling_rate=0.01, steps=200, delta=1e-5)
    ledger = PrivacyLedger([LedgerEntry.of_plan(plan, releases=200)])
    facts = ModelFacts("a <student>", ledger, {"perplexity": 3.25}, audit=audit)
    return write_page(model_page(facts, tokens), tmp_path / "report.html")


def test_it_needs_nothing_else(page):
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!#)[^"']+""", text.replace('xlink:href="#', ""))
    assert "@import" not in text
    assert "a &lt;student&gt;" in text
    for title in ("Exposure by repetition", "Membership of records: ROC curves", "Epsilon over steps", "3.2500"):
        assert title in text
    assert len(re.findall(r'\bid="([^"]+)"', text)) == len(set(re.findall(r'\bid="([^"]+)"', text)))


def test_private_characters_are_masked(tokens, tokenizer, page, tmp_path):
    text = page.read_text()
    assert SECRET not in text
    assert "ann@example.org" not in text
    for shown, original in zip(tokens, TEXTS, strict=True):
        assert len("".join(token.text for token in shown)) == len(original)
    hottest = max(token.temperature for row in tokens for token in row)
    assert hottest == 16.0
    assert "EMAIL_ADDRESS" in {token.label for row in tokens for token in row}
    save_tokens(tokens, tmp_path / "tokens.json")
    assert load_tokens(tmp_path / "tokens.json") == tokens
    assert load_tokens(tmp_path / "none.json") == []


class Unsure:
    """Finds everything a little private, and knows no labels for it."""

    labels = ("", "PRIVATE")

    def char_likelihood(self, texts):
        return [np.full(len(text), 0.45, np.float32) for text in texts]

    def char_labels(self, texts):
        return [np.zeros(len(text), np.int16) for text in texts]


def test_what_is_unsure_is_masked_as_well(tokenizer):
    spans = shown_spans(TEXTS, Unsure())
    tokens = shown_tokens(TEXTS, tokenizer, Unsure(), TemperatureSettings())
    for shown in (*spans, *tokens):
        assert set("".join(token.text for token in shown)) == {"•"}


def test_a_card_says_names_and_nothing_else():
    title = "<img src=x onerror=alert(1)>\n\n## What was promised\n\n- epsilon 0.1"
    card = model_card(ModelFacts(title, PrivacyLedger(), teacher="a`b|c"))
    text = card.split("---", 2)[2]
    assert "<img" not in text
    assert text.count("## What was promised\n") == 1
    assert "`a'b/c`" in text


def test_names_are_no_formulas(tmp_path):
    repetition_figure({"my$\\model$": {0: Interval(1, 0, 2, 4), 10: Interval(3, 2, 4, 4)}}, tmp_path / "x.svg")
    assert (tmp_path / "x.svg").exists()


def test_epsilon_rises_to_what_was_promised():
    plan = PrivacyPlan(noise_multiplier=1.0, sampling_rate=0.01, steps=600, delta=1e-5)
    ledger = PrivacyLedger([LedgerEntry.of_plan(plan, releases=600)])
    ((name, pairs),) = epsilon_curves(ledger).items()
    assert name == "transfer set, DP-SGD"
    steps, epsilons = zip(*pairs, strict=True)
    assert steps[-1] == 600
    assert list(epsilons) == sorted(epsilons)
    assert epsilons[-1] == pytest.approx(ledger.epsilon())
    assert epsilon_curves(PrivacyLedger()) == {}


def test_runs_and_audits_have_one(metrics, audit, tmp_path):
    assert (write_card(metrics.path, tmp_path / "card").parent / "report.html").exists()
    assert tmp_path / "audit" / "report.html" in write_audit(audit, tmp_path / "audit", title="a model")


def test_an_empty_page_is_a_page(tmp_path):
    assert "<h1>bare</h1>" in write_page(Page("bare"), tmp_path / "bare.html").read_text()


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium on the PATH (apt-get install chromium)")
    with playwright.sync_playwright() as running:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        chromium = running.chromium.launch(executable_path=path, args=options)
        yield chromium
        chromium.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser, page: Path, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    shown, asked, wrong = context.new_page(), [], []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.goto(page.as_uri())
    assert asked == [page.as_uri()]
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    # Its colours are the reader's, and a click changes them.
    paper = "getComputedStyle(document.body).backgroundColor"
    before = shown.evaluate(paper)
    assert (before == "rgb(255, 255, 255)") == (scheme == "light")
    shown.get_by_role("button", name=re.compile("colours")).click()
    assert shown.evaluate(paper) != before
    # Tokens by likelihood, then by temperature, by keyboard.
    colour = "getComputedStyle(document.querySelector('.text span')).backgroundColor"
    by_likelihood = shown.evaluate(colour)
    shown.get_by_role("button", name="Temperature").focus()
    shown.keyboard.press("Enter")
    assert shown.get_by_role("button", name="Temperature").get_attribute("aria-pressed") == "true"
    assert shown.get_by_role("button", name="Likelihood").get_attribute("aria-pressed") == "false"
    assert shown.evaluate(colour) != by_likelihood
    # The numbers behind a figure.
    table = shown.locator("figure table").first
    assert not table.is_visible()
    shown.get_by_text("The numbers").first.click()
    assert table.is_visible()
    assert wrong == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(browser, page: Path, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    context = browser.new_context(color_scheme=scheme)
    shown = context.new_page()
    shown.goto(page.as_uri())
    for details in shown.locator("summary").all():
        details.click()
    found = axe.Axe().run(shown)
    assert found.violations_count == 0, found.generate_report()
    context.close()
