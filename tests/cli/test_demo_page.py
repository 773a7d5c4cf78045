"""The page in a browser: upload, run, slider, download, and what must not happen.

With LINEARSR_SCREENSHOT=FILE the first test also writes the picture of the README.
"""

import os
import re
import shutil
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import ExifTags, Image

from linearsr_jax.cli.page_limits import PageLimits
from linearsr_jax.inference.upscaler import Upscaler

pytest.importorskip("gradio", reason="extra `demo` is not installed")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if not CHROMIUM:
    pytest.skip("there is no chromium", allow_module_level=True)

# gradio's own.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SECONDS = 1000  # in Playwright's milliseconds


@pytest.fixture(scope="module")
def address():
    from linearsr_jax.cli.demo_page import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    upscaler = Upscaler.from_pretrained("nano")
    page = serve(upscaler, PageLimits(), host="127.0.0.1", port=port, is_blocking=False)
    yield f"http://127.0.0.1:{port}"
    page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1200, "height": 740})
    context.set_default_timeout(60 * SECONDS)
    tab = context.new_page()
    tab.goto(address)
    tab.wait_for_selector("#enlarge")
    yield tab
    context.close()


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "somebody"
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    coarse.resize((48, 40), Image.Resampling.BICUBIC).save(path, exif=exif)
    return path


def upload(page, *paths):
    page.set_input_files("#files input[type=file]", [str(path) for path in paths])


def enlarge(page, *paths):
    upload(page, *paths)
    for path in paths:
        page.wait_for_selector(f"#files :text('{path.stem}')")
    page.click("#enlarge")


def download(page, name):
    with page.expect_download() as waiting:
        page.click(f"#results a[download*={name}]")
    return waiting.value.path()


def test_example_slider_and_screenshot(page):
    page.get_by_role("button", name="Osprey").click()
    page.wait_for_selector("#files :text('osprey')")
    page.click("#enlarge")
    page.wait_for_selector("#results a[download]")
    # Both pictures load, and have one size.
    page.wait_for_function(
        "Array.from(document.querySelectorAll('#compare img'), i => i.naturalWidth)"
        ".toString() === '640,640'"
    )
    handle = page.locator("#compare [data-testid=slider] .icon-wrap")
    box = handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    if name := os.environ.get("LINEARSR_SCREENSHOT"):
        page.wait_for_timeout(SECONDS)  # fades
        page.screenshot(path=name)
    page.mouse.move(box["x"] + 120, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert abs(handle.bounding_box()["x"] - box["x"]) > 50


def test_several_pictures_and_their_metadata(page, photo):
    other = photo.with_name("other.png")
    Image.new("RGB", (30, 20), (200, 30, 60)).save(other)
    enlarge(page, photo, other)
    page.wait_for_selector("#results a[download] >> nth=1")
    with Image.open(download(page, "photo")) as image:
        assert (image.format, image.size) == ("JPEG", (192, 160))
        assert image.getexif()[ExifTags.Base.Artist] == "somebody"
    with Image.open(download(page, "other")) as image:
        assert (image.format, image.size) == ("PNG", (120, 80))
    # The slider shows the other one, too.
    before = page.locator("#compare img").first.get_attribute("src")
    page.click("#choice input")
    page.get_by_role("option", name="other_x4.png").click()
    page.wait_for_function(
        "src => document.querySelector('#compare img').src !== src", arg=before
    )


def test_fidelity_counts(page, photo):
    results = []
    for value in ("0", "1"):
        page.fill("#fidelity input[type=number]", value)
        page.press("#fidelity input[type=number]", "Tab")
        if results:
            previous = page.locator("#results a[download]").first.get_attribute("href")
            page.click("#enlarge")
            page.wait_for_function(
                "href => { const a = document.querySelector('#results a[download]');"
                " return a && a.href !== href; }",
                arg=previous,
            )
        else:
            enlarge(page, photo)
            page.wait_for_selector("#results a[download]")
        with Image.open(download(page, "photo")) as image:
            results.append(np.asarray(image).astype(int))
    assert np.abs(results[0] - results[1]).mean() > 0.1


def test_a_broken_file_beside_a_good_one(page, photo):
    broken = photo.with_name("broken.png")
    broken.write_text("no picture")
    enlarge(page, photo, broken)
    page.wait_for_selector("#results a[download]")
    assert page.locator("#results a[download]").count() == 1
    toast = page.locator(".toast-body").first
    toast.wait_for()
    text = toast.inner_text()
    assert "broken.png" in text
    assert "is not an image" in text
    assert "/" not in re.sub(r"[A-Z/]+ file", "", text), "a path of the server"


@pytest.mark.parametrize(
    ("case", "message"),
    [("broken", "None of the pictures"), ("pixels", "None of the"), ("many", "limit")],
)
def test_what_cannot_be_enlarged(page, photo, case, message):
    paths = [photo]
    if case == "broken":
        photo.write_text("no picture")
    elif case == "pixels":
        Image.new("RGB", (5000, 4000)).save(photo)
    else:
        for number in range(20):
            paths.append(photo.with_name(f"{number}.jpg"))
            shutil.copy(photo, paths[-1])
    enlarge(page, *paths)
    page.wait_for_selector(f".toast-body:has-text('{message}')")
    assert page.locator("#results a[download]").count() == 0


def test_a_file_that_is_too_large(page, photo):
    large = photo.with_name("large.bmp")
    Image.new("RGB", (4200, 4300)).save(large)
    assert large.stat().st_size > 54_000_000
    upload(page, large)
    page.wait_for_selector(".toast-body")
    assert page.locator("#results a[download]").count() == 0


def test_nothing_chosen(page):
    page.click("#enlarge")
    page.wait_for_selector(".toast-body:has-text('Choose a picture')")


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "setup.py", "../../../../etc/hostname", "{source}"]
)
@pytest.mark.parametrize("prefix", ["/gradio_api/file=", "/file="])
def test_no_file_of_the_server_is_reached(address, prefix, path):
    import linearsr_jax.cli.demo_page as source

    url = address + prefix + path.format(source=source.__file__)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url)
    assert caught.value.code in (403, 404)
    caught.value.close()


def test_a_request_cannot_name_a_file_of_the_server(page, address):
    """As a visitor with a program of their own would ask."""
    config = page.request.get(f"{address}/config").json()
    (run,) = (
        each["id"]
        for each in config["dependencies"]
        if len(each["inputs"]) == 5 and len(each["outputs"]) == 4
    )
    stolen = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    data = {"data": [[stolen], 0.5, 1, 0, ""], "fn_index": run, "session_hash": "x"}
    page.request.post(f"{address}/gradio_api/queue/join", data=data)
    events = page.request.get(f"{address}/gradio_api/queue/data?session_hash=x").text()
    assert '"success":true' not in events.replace(" ", "")
    assert "hostname_x4" not in events


def test_on_a_phone(browser, address, photo):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(60 * SECONDS)
    tab = context.new_page()
    tab.goto(address)
    tab.wait_for_selector("#enlarge")
    enlarge(tab, photo)
    tab.wait_for_selector("#results a[download]")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    if name := os.environ.get("LINEARSR_SCREENSHOT"):
        tab.screenshot(path=name.replace(".png", "_phone.png"), full_page=True)
    context.close()
