"""The page in a real browser: hover, keyboard, copy, dark mode, print, no script, hostile strings, assistive technology."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import five_reports
import html5lib
import pytest
from patient import patient

from adapter_doctor.engine import judge
from adapter_doctor.render import html
from adapter_doctor.report import Report, build
from adapter_doctor.rules import rules_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NAMES = sorted(five_reports.CHANGES)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def large() -> Report:
    """As many tensors as LoRA on all linear layers of Llama-3.1-405B has."""
    changes = {"config": {"target_modules": ALL_LINEAR}, "base": {"num_hidden_layers": 126}, "retrained": True}
    facts = patient(changes)
    return build(judge(rules_of(), facts), facts, "example/tiny-llama")


def mixed() -> Report:
    """One tensor of each fate."""
    changes = {
        "config": {"target_modules": ALL_LINEAR}, "retrained": True,
        "tensors": {"rename": {r"layers\.0\.self_attn\.q_proj": "layers.0.self_attn.query"}},
        "values": {r"layers\.1\.self_attn.*lora_B": "zero", r"layers\.2\.mlp\.up_proj\.lora_A": "nan"},
    }  # fmt: skip
    facts = patient(changes)
    return build(judge(rules_of(), facts), facts, "example/tiny-llama")


@pytest.mark.parametrize("name", NAMES)
def test_page_is_valid_html(name: str) -> None:
    parser = html5lib.HTMLParser(strict=True)  # raises at the first parse error of the standard
    parser.parse(html.render(five_reports.report(name)))
    html5lib.HTMLParser(strict=True).parseFragment(html.fragment(five_reports.report(name)))


@pytest.mark.parametrize("show", [html.render, html.fragment])
def test_page_asks_for_nothing_elsewhere(show: Callable[[Report], str]) -> None:
    tree = html5lib.parse(show(mixed()), treebuilder="etree", namespaceHTMLElements=False)
    addresses = [
        value for one in tree.iter() for key, value in one.attrib.items() if key in ("src", "href", "srcset", "data")
    ]

    assert addresses == []
    assert "@import" not in show(mixed())
    assert "url(" not in show(mixed())


def test_picture_shows_rows_for_what_was_not_trained() -> None:
    facts = patient({"config": {"target_modules": ["lm_head"]}, "retrained": True})
    picture = build(judge(rules_of(), facts), facts, "x").picture

    assert [cell.kind for cell in picture.cells] == ["lm_head"]
    assert "model.layers.*.self_attn.q_proj" in picture.kinds
    assert picture.layers == (("model.layers", 4),)


def test_picture_tells_every_fate() -> None:
    states = {state: count for cell in mixed().picture.cells for state, count in cell.states}
    by_place = {(cell.kind.rpartition(".")[2], cell.layer): cell for cell in mixed().picture.cells}

    assert set(states) == {"ignored", "left at init", "not finite", "zero", "landed"}
    assert by_place["query", 0].state == "ignored"
    assert by_place["q_proj", 0].state == "left at init"
    assert by_place["up_proj", 2].state == "not finite"
    assert by_place["o_proj", 1].state == "zero"
    whole = by_place["v_proj", 3]
    assert (whole.state, whole.rank, whole.scaling) == ("landed", 8, 2.0)
    assert whole.tensors == (("lora_A", (8, 64)), ("lora_B", (32, 8)))
    wrong = five_reports.report("wrong-base").picture.cells
    assert {cell.state for cell in wrong} == {"wrong shape", "left at init"}
    assert {cell.state for cell in five_reports.report("gated-base").picture.cells} == {"not examined"}


# --------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a report; a message on the console or a request beyond the file itself fails the test."""
    contexts, said = [], []

    def show(report: Report, **options: Any) -> Any:
        path = tmp_path / "report.html"
        path.write_text(html.render(report), encoding="utf-8")
        context = browser.new_context(viewport={"width": 1000, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda one: said.extend([] if one.url.startswith("file:") else [one.url]))
        page.on("dialog", lambda one: said.append(one.message))
        page.goto(path.as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert said == []


@in_browser
def test_pointing_at_a_cell_tells_what_it_is(opened: Callable[..., Any]) -> None:
    page = opened(mixed())
    page.hover('.ad-cell:has(title:text("layers.3.self_attn.v_proj"))')

    assert page.inner_text(".ad-detail").splitlines() == [
        "model.layers.3.self_attn.v_proj: landed", "lora_A [8, 64]", "lora_B [32, 8]", "rank 8, scaling 2",
    ]  # fmt: skip


@in_browser
def test_cells_are_reached_by_keyboard(opened: Callable[..., Any]) -> None:
    page = opened(mixed())

    def at() -> str:
        return str(page.inner_text(".ad-detail").splitlines()[0])

    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('ad-cell')"):
            break
    assert at() == "model.layers.0.self_attn.q_proj: left at init"
    page.keyboard.press("ArrowRight")
    assert at() == "model.layers.1.self_attn.q_proj: zero"
    page.keyboard.press("ArrowDown")
    assert at() == "model.layers.1.self_attn.k_proj: zero"
    page.keyboard.press("End")
    assert at() == "model.layers.3.self_attn.k_proj: landed"
    for _ in range(10):
        page.keyboard.press("ArrowDown")
    assert at() == "model.layers.0.self_attn.query: ignored"
    assert page.locator('.ad-cell[tabindex="0"]').count() == 1


@in_browser
@pytest.mark.parametrize("granted", [True, False])
def test_cure_is_copied(granted: bool, opened: Callable[..., Any]) -> None:
    page = opened(
        five_reports.report("wrong-base"), permissions=["clipboard-read", "clipboard-write"] if granted else []
    )
    if not granted:
        page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.click(".ad-copy")
    page.wait_for_function("document.querySelector('.ad-copy').textContent === 'Copied'")

    if granted:
        assert page.evaluate("navigator.clipboard.readText()") == "Load it on the base that it was trained on."


@in_browser
def test_theme_is_that_of_the_reader(opened: Callable[..., Any]) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page = opened(mixed(), color_scheme=scheme)
        script = (
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('main')).color]"
        )
        colours.append(page.evaluate(script))

    assert colours == [["rgb(255, 255, 255)", "rgb(31, 35, 40)"], ["rgb(13, 17, 23)", "rgb(230, 237, 243)"]]


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [*NAMES, "mixed"])
def test_assistive_technology_finds_nothing_missing(name: str, scheme: str, opened: Callable[..., Any]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(mixed() if name == "mixed" else five_reports.report(name), color_scheme=scheme, bypass_csp=True)
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    found = Axe().run(page).response["violations"]

    assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found] == []


@in_browser
def test_strings_of_strangers_are_inert(opened: Callable[..., Any]) -> None:
    page = opened(five_reports.report("hostile-strings"))

    assert page.title().startswith("incompatible: adapters/<script>")
    assert page.locator("main img, main script").count() == 0
    assert "<script>document.title='pwned'</script>" in page.inner_text("main")
    assert "sha256-" in page.get_attribute('meta[http-equiv="Content-Security-Policy"]', "content")


@in_browser
def test_page_says_the_same_without_script_and_in_print(opened: Callable[..., Any]) -> None:
    page = opened(mixed(), java_script_enabled=False)
    text = page.inner_text("main")
    assert "AD213 not-finite" in text
    assert not page.is_visible(".ad-copy")
    assert page.locator(".ad-cell title").count() > 20

    page.emulate_media(media="print")
    assert page.is_visible(".ad-picture")
    assert page.locator(".ad-picture").bounding_box()["width"] <= 1000
    assert page.pdf().startswith(b"%PDF")


@in_browser
def test_large_adapter_opens_at_once(opened: Callable[..., Any]) -> None:
    report = large()
    assert report.adapter["tensors"] == 1764
    page = opened(report)
    took = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")

    assert page.locator(".ad-picture .ad-cell").count() == 882
    assert 0 < took < 1000, f"{took:.0f} ms"


@in_browser
def test_page_is_not_wider_than_a_telephone(opened: Callable[..., Any]) -> None:
    page = opened(large())
    page.set_viewport_size({"width": 360, "height": 700})

    assert page.evaluate("document.documentElement.scrollWidth") <= 360
