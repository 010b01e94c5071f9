"""The rendered pages as a reader's browser shows them, opened from the disk in headless Chromium."""

import io
import shutil
import time

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,1000"
)
INSTALL = (
    "found no {} for the browser tests. Debian, Ubuntu: apt install chromium chromium-driver; "
    "Fedora: dnf install chromium chromedriver; macOS: brew install --cask chromium chromedriver"
)

SCROLL = "arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip(INSTALL.format("chromedriver" if binary else "Chromium or Chrome"))
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.set_page_load_timeout(60)
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def opened(browser, site):
    """Open a page of the site, wait until its formulas are drawn, and return the browser."""

    def opened(page, query=""):
        browser.get((site / page).as_uri() + query)
        drawn = "return !window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)"
        assert wait(
            lambda: browser.execute_script(f"return document.readyState === 'complete' && ({drawn[7:]})")
        )
        return browser

    return opened


@pytest.fixture(scope="module")
def pages(site):
    return [p.relative_to(site).as_posix() for p in sorted(site.rglob("*.html")) if "_static" not in p.parts]


def wait(true, seconds=30):
    end = time.monotonic() + seconds
    while not (value := true()) and time.monotonic() < end:
        time.sleep(0.1)
    return value


def complaints(browser):
    return [
        entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]


def test_pages_open_without_an_error_and_without_a_network(opened, pages):
    assert len(pages) > 5
    for page in pages:
        browser = opened(page)
        assert not complaints(browser), page
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert all(name.startswith(("file:", "data:")) for name in loaded), page
        broken = (
            "return [...document.images].filter(i => i.loading != 'lazy' && !i.naturalWidth).map(i => i.src)"
        )
        assert browser.execute_script(broken) == [], page


def test_every_formula_is_drawn(opened, pages):
    formulas = 0
    # What a cell prints as Markdown is no place for formulas: they would stand there as they are written.
    written = (
        "const page = document.querySelector('article, main, body').cloneNode(true);"
        "page.querySelectorAll('pre, code, script, .math').forEach(part => part.remove());"
        "return page.textContent.match(/\\$[^$\\n]{1,60}\\$/g) || []"
    )
    for page in pages:
        browser = opened(page)
        source, drawn, wrong = browser.execute_script(
            "return ['.math', '.math mjx-container > svg', 'mjx-merror, [data-mml-node=merror]']"
            ".map(s => document.querySelectorAll(s).length)"
        )
        assert drawn == source, page
        assert not wrong, page
        assert browser.execute_script(written) == [], page
        formulas += drawn
    assert formulas > 100


def test_no_page_is_wider_than_its_window(opened, pages):
    for page in pages:
        browser = opened(page)
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.execute_script(wide) <= 1, page


def test_search_finds_what_is_there_and_nothing_else(opened):
    found = "return [...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'))"
    said = "return document.querySelector('#search-results').textContent"
    browser = opened("search.html", "?q=RetNet")
    assert wait(lambda: "found" in browser.execute_script(said))
    links = browser.execute_script(found)
    assert any("03_three_generations" in link for link in links)
    assert not complaints(browser)
    browser = opened("search.html", "?q=zyzzyvatic")
    assert wait(lambda: "did not match" in browser.execute_script(said))
    assert browser.execute_script(found) == []


def test_the_search_field_leads_to_the_search_page(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser = opened("intro.html")
    browser.find_element(By.CSS_SELECTOR, ".search-button-field, .search-button").click()
    field = next(f for f in browser.find_elements(By.CSS_SELECTOR, "input[type=search]") if f.is_displayed())
    field.send_keys("delta", Keys.ENTER)
    assert wait(lambda: "search.html?q=delta" in browser.current_url)


def test_solutions_unfold(opened):
    from selenium.webdriver.common.by import By

    browser = opened("chapters/03_three_generations.html")
    solution = browser.find_element(By.CSS_SELECTOR, ".solution.dropdown")
    inside = solution.find_element(By.CSS_SELECTOR, ".solution-content, section, p:not(.admonition-title)")
    assert not inside.is_displayed()
    browser.execute_script(SCROLL, solution)
    solution.find_element(By.CSS_SELECTOR, ".toggle-button, .admonition-title").click()
    assert wait(inside.is_displayed, 5)


def test_the_theme_switch_darkens_and_figures_stay_legible(opened, pages):
    from selenium.webdriver.common.by import By

    browser = opened("intro.html")
    theme = "return document.documentElement.dataset.theme"
    switch = browser.find_element(By.CSS_SELECTOR, ".theme-switch-button")

    def dark():
        return browser.execute_script(theme) == "dark"

    assert wait(lambda: dark() or switch.click() or dark(), 10)
    assert luminance(browser.get_screenshot_as_png()).mean() < 0.2
    figures = 0
    for page in pages:
        browser = opened(page)
        assert dark(), page
        for image in browser.find_elements(By.CSS_SELECTOR, "article img"):
            if image.is_displayed():
                browser.execute_script(SCROLL, image)
                assert contrast(image.screenshot_as_png) >= 4.5, f"{page}: {image.get_attribute('alt')}"
                figures += 1
    assert figures


def luminance(png):
    """Relative luminance of every pixel (WCAG 2.2)."""
    import numpy
    from PIL import Image

    rgb = numpy.asarray(Image.open(io.BytesIO(png)).convert("RGB")) / 255
    linear = numpy.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(png):
    """Contrast ratio between the ink of a picture, its most different percent, and its background."""
    import numpy

    values = luminance(png)
    ground = numpy.median(values)
    low, high = numpy.percentile(values, [1, 99])
    return max((ground + 0.05) / (low + 0.05), (high + 0.05) / (ground + 0.05))
