"""The page in a real browser: each of its views, and what goes wrong at them.

Chromium is the system's, driven by Playwright. Tests wait for what the page shows, never for a time.
"""

import json
import re
import shutil

import pytest
from page_server import CONTEXT, HOSTILE, LONG, OTHERWISE, PHRASES, Served

from maquette.serving.api.guard import Access
from maquette.serving.api.keys import Keys, add_key

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
expect = playwright.expect
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH"),
]
OPTIONS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run
--disable-background-networking --disable-component-update --disable-sync""".split()
PATIENCE = 60_000.0
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path).listening() as server:
        yield server


@pytest.fixture
def browser(chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


def opened(context, served, view="write"):
    """A tab that shows a view; whatever it asks of another origin, or says on its console, fails the test."""
    tab = context.new_page()
    tab.wrong = []
    tab.on("request", lambda r: tab.wrong.append(r.url) if not own(r.url, served) else None)
    tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
    tab.on(
        "console", lambda m: tab.wrong.append(m.text) if m.type in ("error", "warning") else None
    )
    tab.goto(f"{served.address}/#{view}")
    expect(tab.get_by_label("Run", exact=True)).to_have_value("parrot")
    return tab


def own(url, served):
    return url.startswith((f"{served.address}/", "data:", f"blob:{served.address}/"))


@pytest.fixture
def tab(browser, served):
    page = opened(browser, served)
    yield page
    assert not page.wrong


def message(tab):
    return tab.get_by_label("Message", exact=True)


def say(tab, text, whole=OTHERWISE):
    message(tab).fill(text)
    message(tab).press("Enter")
    if whole is not None:
        expect(answers(tab).last).to_have_text(whole)
        finished(tab)


def answers(tab):
    return tab.locator("article.theirs .text")


def finished(tab):
    expect(tab.get_by_role("button", name="Stop")).to_be_hidden()
    expect(
        tab.locator("article.theirs").last.get_by_role("button", name="Regenerate")
    ).to_be_visible()


def last(tab, name):
    return tab.locator("article.theirs").last.get_by_role("button", name=name, exact=True)


def test_a_chat_streams_and_goes_on(tab, served):
    say(tab, "Hello")
    say(tab, "And then?")
    assert len(served.parrot.requests) == 2
    asked = bytes(t for t in served.parrot.requests[-1].prompt if t < 256).decode()
    assert asked == f"Q: Hello\nA: {OTHERWISE}Q: And then?\nA:"
    expect(tab.locator("footer .facts").last).to_contain_text(f"{len(OTHERWISE)} tokens")


def test_a_completion_goes_on_from_a_text(tab, served):
    tab.get_by_label("Kind of conversation").select_option("completion")
    tab.get_by_label("Most tokens").fill("9")
    message(tab).fill("Once: ")
    message(tab).press("Control+Enter")
    expect(answers(tab)).to_have_text(OTHERWISE[:9])
    expect(tab.locator("footer .facts").last).to_contain_text("as long as was asked for")
    tab.get_by_label("Most tokens").fill("")
    last(tab, "Continue").click()
    expect(answers(tab)).to_have_text(OTHERWISE)
    asked = bytes(t for t in served.parrot.requests[-1].prompt if t < 256).decode()
    assert asked == f"Once: {OTHERWISE[:9]}"
    room = CONTEXT - len(served.parrot.requests[-1].prompt)
    assert served.parrot.requests[-1].tokens == room


def test_stop_frees_the_row_and_continue_goes_on(tab, served):
    served.parrot.permits.release(9)
    say(tab, "HELD", None)
    expect(answers(tab)).to_have_text("one two t")
    tab.get_by_role("button", name="Stop").click()
    finished(tab)
    expect(tab.locator("footer .facts").last).to_contain_text("stopped")
    served.parrot.permits.release(100)
    last(tab, "Continue").click()
    expect(answers(tab)).to_have_text(PHRASES["HELD"])
    finished(tab)
    assert served.parrot.cancelled == [1]


def test_branches_by_regenerating_and_editing(tab):
    say(tab, "Hello")
    last(tab, "Regenerate").click()
    expect(tab.locator(".branches")).to_contain_text("2 / 2")
    finished(tab)
    tab.locator("article.mine").get_by_role("button", name="Edit").click()
    tab.get_by_label("Edit", exact=True).fill("MARKDOWN")
    tab.get_by_role("button", name="Send as a new branch").click()
    expect(tab.locator("article.theirs h3", has_text="Title")).to_be_visible()
    finished(tab)
    tab.locator("article.mine").get_by_role("button", name="Earlier branch").click()
    expect(tab.locator("article.mine .text")).to_have_text("Hello")
    expect(answers(tab)).to_have_text(OTHERWISE)
    tab.reload()
    expect(tab.locator("article.mine .text")).to_have_text("Hello")
    tab.locator("article.mine").get_by_role("button", name="Later branch").click()
    expect(tab.locator("article.theirs li")).to_have_text(["one", "two"])


def test_an_edited_answer_is_what_the_next_one_reads(tab, served):
    say(tab, "Hello")
    last(tab, "Edit").click()
    tab.get_by_label("Edit", exact=True).fill("No cats.")
    tab.get_by_role("button", name="Keep as a new branch").click()
    say(tab, "And?")
    asked = bytes(t for t in served.parrot.requests[-1].prompt if t < 256).decode()
    assert asked == "Q: Hello\nA: No cats.Q: And?\nA:"


def test_a_token_shows_its_alternatives_and_branches(tab, served):
    """By the pointer: the card, the colours; the branch is the text up to there with the other token."""
    say(tab, "Hello")
    token = tab.locator(".token").nth(4)
    token.hover()
    card = tab.get_by_role("dialog", name="Token")
    expect(card.locator(".chosen")).to_contain_text("90.5 %, 0.1 bits")
    expect(card.get_by_role("listitem")).to_have_count(3)
    expect(card.get_by_role("button", name="c 90.5 %")).to_be_disabled()
    card.get_by_role("button", name="X 4.98 %").click()
    expect(tab.locator(".branches")).to_contain_text("2 / 2")
    expect(answers(tab)).to_have_text(f"The X{OTHERWISE}")
    finished(tab)
    assert served.parrot.requests[-1].prompt[-5:] == tuple(b"The X")
    expect(tab.locator(".token.s3")).to_have_text("X")
    expect(tab.locator(".legend")).to_be_visible()
    tab.get_by_label("Colour by surprise").uncheck()
    expect(tab.locator(".legend")).to_be_hidden()
    expect(tab.locator(".thread")).not_to_have_class(re.compile("surprise"))


def test_everything_by_keyboard_alone(tab, served):
    """From the message over the answer's tokens to a branch, and back by Escape."""
    message(tab).focus()
    tab.keyboard.type("Hello")
    tab.keyboard.press("Enter")
    expect(answers(tab)).to_have_text(OTHERWISE)
    finished(tab)
    for _ in range(12):
        tab.keyboard.press("Shift+Tab")
        if tab.evaluate("document.activeElement.matches('article.theirs .text')"):
            break
    expect(answers(tab)).to_be_focused()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    expect(tab.locator(".token.marked")).to_have_text("h")
    expect(tab.locator("#spoken")).to_have_text("h, 90.5 %")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("button", name="X 4.98 %")).to_be_focused()
    tab.keyboard.press("Escape")
    expect(answers(tab)).to_be_focused()
    tab.keyboard.press("Enter")
    tab.keyboard.press("ArrowDown")
    expect(tab.get_by_role("button", name="< 0.674 %")).to_be_focused()
    tab.keyboard.press("Enter")
    expect(answers(tab)).to_have_text(f"T<{OTHERWISE}")
    finished(tab)


def test_parameters_are_sent_and_kept(tab, served):
    fields = {"Temperature": 0.5, "Top-p": 0.9, "Top-k": 7, "Min-p": 0.1, "Repetition penalty": 1.2,
              "Presence penalty": 0.3, "Frequency penalty": -0.4, "Seed": 11, "Most tokens": 50}  # fmt: skip
    for name, value in fields.items():
        tab.get_by_label(name, exact=True).fill(str(value))
    tab.get_by_label("Stop strings").fill("mat\n\\nQ:")
    tab.get_by_label("System message").fill("Be brief.")
    say(tab, "Hello")
    request = served.parrot.requests[0]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (
        0.5,
        0.9,
        7,
        0.1,
    )
    assert (sampling.repetition_penalty, sampling.presence_penalty) == (1.2, 0.3)
    assert (sampling.frequency_penalty, request.tokens) == (-0.4, 50)
    assert request.stop[:2] == ("mat", "\nQ:")
    assert bytes(t for t in request.prompt if t < 256).startswith(b"Q: Be brief.\n\nHello")
    expect(tab.locator("footer .facts").last).to_contain_text("seed 11")
    tab.reload()
    expect(tab.get_by_label("Temperature")).to_have_value("0.5")


def test_the_run_with_the_real_engine_answers(tab):
    tab.get_by_label("Run", exact=True).select_option("tiny")
    tab.get_by_label("Most tokens").fill("12")
    say(tab, "Hello", None)
    finished(tab)
    expect(tab.locator("footer .facts").last).to_contain_text("12 tokens")


def test_what_does_not_fit_is_said_and_the_message_stays(browser, served):
    tab = opened(browser, served)
    tab.get_by_label("Run", exact=True).select_option("tiny")
    say(tab, "x" * 400, None)
    expect(tab.get_by_role("alert")).to_contain_text("the context has 384 tokens")
    expect(tab.locator("article.mine .text")).to_have_text("x" * 400)


def test_markdown_is_shown_and_cannot_inject(tab):
    say(tab, "MARKDOWN", None)
    finished(tab)
    answer = answers(tab)
    expect(answer.locator("h3")).to_have_text("Title")
    expect(answer.locator("strong")).to_have_text("strong")
    expect(answer.locator("li")).to_have_text(["one", "two"])
    expect(answer.locator("th")).to_have_text(["a", "b"])
    expect(answer.locator("td")).to_have_text(["1", "2"])
    expect(answer.locator("pre code")).to_have_text("code <b>\n")
    say(tab, "HOSTILE", None)
    finished(tab)
    answer = answers(tab).last
    assert answer.locator("img, script, b, i").count() == 0
    expect(answer.get_by_role("link")).to_have_count(2)
    hrefs = [link.get_attribute("href") for link in answer.get_by_role("link").all()]
    assert hrefs == ["http://example.invalid/p.png", "https://example.invalid/"]
    expect(answer.locator("strong")).to_have_text("<b>bold</b>")
    tab.get_by_label("Markdown in chats").uncheck()
    expect(answers(tab).last).to_have_text(HOSTILE)
    assert tab.title() == "Write - Maquette"


def test_hostile_text_in_messages_and_titles_stays_text(tab):
    say(tab, HOSTILE)
    expect(tab.locator("article.mine .text")).to_have_text(HOSTILE)
    expect(tab.locator(".conversations .title")).to_have_text(HOSTILE[:60])
    assert tab.locator("main img, main script").count() == 0
    assert tab.title() == "Write - Maquette"


def test_ten_thousand_tokens_are_drawn_once(tab):
    """No block that is finished is drawn again: its element is the same one before and after."""
    tab.evaluate("""() => {
      window.kept = new Map(); window.again = 0;
      new MutationObserver((records) => { for (const r of records) for (const node of r.removedNodes)
        if (node.nodeType === 1 && node.textContent.length > 5000) window.again += 1; })
        .observe(document.getElementById("main"), { childList: true, subtree: true });
    }""")
    say(tab, "LONG", None)
    expect(tab.locator("footer .facts").last).to_contain_text("10000 tokens")
    finished(tab)
    assert tab.evaluate("window.again") == 0
    assert tab.locator(".token").count() >= 9000
    plain = re.sub(r"\s+|\*", "", LONG)
    assert re.sub(r"\s+|\*", "", answers(tab).text_content()) == plain
    tab.reload()
    expect(answers(tab)).to_be_visible()
    assert re.sub(r"\s+|\*", "", answers(tab).text_content()) == plain


def test_a_slow_client_gets_everything(tab):
    session = tab.context.new_cdp_session(tab)
    session.send("Network.enable")
    slow = {"offline": False, "latency": 50, "downloadThroughput": 500_000, "uploadThroughput": -1}
    session.send("Network.emulateNetworkConditions", slow)
    say(tab, "LONG", None)
    expect(tab.locator("footer .facts").last).to_contain_text("10000 tokens", timeout=5 * PATIENCE)


def test_a_reload_amid_a_stream_loses_nothing_that_arrived(tab, served):
    served.parrot.permits.release(17)
    say(tab, "HELD", None)
    expect(answers(tab)).to_have_text(PHRASES["HELD"][:17])
    tab.reload()
    expect(answers(tab)).to_have_text(PHRASES["HELD"][:17])
    expect(tab.locator("footer .facts").last).to_contain_text("broken off")
    served.parrot.permits.release(100)
    last(tab, "Continue").click()
    expect(answers(tab)).to_have_text(PHRASES["HELD"])
    finished(tab)


def test_a_server_that_goes_away_amid_a_stream(browser, tmp_path):
    with Served(tmp_path).listening() as served:
        tab = opened(browser, served)
        served.parrot.permits.release(8)
        say(tab, "HELD", None)
        expect(answers(tab)).to_have_text(PHRASES["HELD"][:8])
        tab.route("**/v1/**", lambda route: route.abort())
        tab.evaluate("window.stop()")
        expect(tab.get_by_role("alert")).to_contain_text("broke off")
        say(tab, "More", None)
        expect(tab.get_by_role("alert").last).to_contain_text("does not answer")
        expect(answers(tab).first).to_have_text(PHRASES["HELD"][:8])
        tab.close()


def test_two_tabs_do_not_overwrite_each_other(browser, served):
    """Each writes a conversation of its own and one they share; both see all, then and after a reload."""
    first = opened(browser, served)
    say(first, "From the first")
    second = opened(browser, served)
    expect(second.locator(".conversations .title")).to_have_text(["From the first"])
    say(second, "From the second")
    expect(first.locator(".conversations li")).to_have_count(2)
    second.get_by_role("button", name="From the first", exact=True).click()
    expect(second.locator("article.mine .text")).to_have_text("From the first")
    say(first, "First again")
    expect(second.locator("article.mine")).to_have_count(2)
    say(second, "Second again")
    expect(first.locator("article.mine")).to_have_count(3)
    first.reload()
    texts = ["From the first", "First again", "Second again"]
    expect(first.locator("article.mine .text")).to_have_text(texts)
    expect(first.locator(".conversations li")).to_have_count(2)
    assert not first.wrong + second.wrong


def test_conversations_are_exported_and_deleted(tab):
    say(tab, "Hello")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Export text").click()
    assert download.value.suggested_filename == "Hello.txt"
    text = download.value.path().read_text(encoding="utf-8")
    assert text == f"user: Hello\n\nassistant: {OTHERWISE}\n"
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Export JSON").click()
    kept = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert [m["text"] for m in kept["messages"]] == ["Hello", OTHERWISE]
    assert kept["messages"][1]["pieces"][0][1][0][2][1][0] == "X"
    tab.get_by_role("button", name="Delete Hello").click()
    expect(tab.locator("article")).to_have_count(0)
    assert (
        tab.evaluate(
            "Object.keys(localStorage).filter((k) => /message|pieces|conversation/.test(k))"
        )
        == []
    )


def test_where_an_answer_is_from(tab):
    say(tab, "Hello")
    last(tab, "Where from").click()
    expect(tab.locator(".figure strong")).to_have_text("50 %")
    expect(tab.locator(".mark")).to_have_text("cat sat on the")
    expect(tab.locator(".documents")).to_contain_text("2 times in the training text")
    expect(tab.locator(".documents b")).to_have_text("cat sat on the")
    expect(tab.locator(".documents figcaption")).to_contain_text("onerror")
    assert tab.locator("main img").count() == 0
    tab.get_by_role("button", name="Was it seen?").click()
    expect(tab.locator(".figure strong")).to_have_text("100 % of the characters were seen.")
    expect(tab.locator("mark")).to_have_text(OTHERWISE)
    tab.get_by_label("Text to look for").fill("\U0001f642 cat sat on the mat")
    tab.get_by_role("button", name="Find its passages").click()
    expect(tab.locator(".mark")).to_have_text("cat sat on the")


def test_sliders_write_again_as_they_move(tab, served):
    tab.get_by_role("link", name="Sliders").click()
    expect(tab.locator(".output")).to_have_text(OTHERWISE)
    slider = tab.get_by_role("slider", name="pirate")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowRight")
    expect(tab.locator(".output .text")).to_have_text("Arr, at 0.2.")
    request = served.parrot.requests[-1]
    assert request.adapters == {"pirate": 0.2} and request.tokens == 80
    seeds = {request.sampling.seed for request in served.parrot.requests}
    assert len(seeds) == 1
    tab.get_by_role("link", name="Write").click()
    say(tab, "Hello", "Arr, at 0.2.")


def test_pictures_are_made_filled_continued_and_varied(tab, served):
    tab.get_by_role("link", name="Pictures").click()
    tab.get_by_label("Prompt").fill("<b>a red circle</b>")
    tab.get_by_label("Seed").fill("7")
    tab.get_by_label("Steps").fill("5")
    tab.get_by_label("Solver").select_option("heun")
    tab.get_by_role("button", name="Make").click()
    grid = tab.locator("figure.grid").first
    expect(grid.get_by_role("button", name="Picture")).to_have_count(4)
    expect(grid.locator("figcaption")).to_contain_text("16x16, seed 7, 5 evaluations")
    expect(grid.locator("figcaption")).to_contain_text("onerror")
    order = served.painter.orders[-1]
    assert (order.prompt, order.count, order.steps, order.solver) == (
        "<b>a red circle</b>",
        4,
        5,
        "heun",
    )
    assert tab.locator("figcaption b").count() == 0

    grid.get_by_role("button", name="Picture 2").click()
    canvas = tab.get_by_label("Picture to paint a mask on")
    expect(canvas).to_be_focused()
    canvas.press("ArrowLeft")
    canvas.press("Space")
    tab.get_by_role("button", name="Fill", exact=True).click()
    expect(tab.locator("figure.grid")).to_have_count(2)
    assert holes(served.painter.orders[-1].mask) in range(1, 60)
    box = canvas.bounding_box()
    tab.mouse.move(box["x"] + 10, box["y"] + 10)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] - 10, box["y"] + box["height"] - 10, steps=8)
    tab.mouse.up()
    tab.get_by_role("button", name="Fill", exact=True).click()
    expect(tab.locator("figure.grid")).to_have_count(3)
    assert holes(served.painter.orders[-1].mask) > holes(served.painter.orders[-2].mask)

    tab.get_by_label("Side").select_option("left")
    tab.get_by_label("Pixels").fill("8")
    tab.get_by_role("button", name="Continue to the").click()
    expect(tab.locator("figure.grid")).to_have_count(4)
    assert served.painter.orders[-1].outpaint == {"left": 8}
    expect(tab.locator("figure.grid figcaption").first).to_contain_text("24x16")
    tab.get_by_role("button", name="Vary", exact=True).click()
    expect(tab.locator("figure.grid")).to_have_count(5)
    assert served.painter.orders[-1].vary.startswith(b"\x89PNG")
    assert served.painter.orders[-1].prompt == ""
    tab.get_by_role("button", name="Interpolate from here").click()
    tab.get_by_role("button", name="to this one").click()
    expect(tab.locator("figure.grid")).to_have_count(6)
    assert served.painter.orders[-1].toward.startswith(b"\x89PNG")


def holes(mask):
    """Number of transparent pixels of a mask's file."""
    import io

    import numpy as np
    from PIL import Image

    return int((np.array(Image.open(io.BytesIO(mask)).convert("RGBA"))[..., 3] == 0).sum())


def test_a_training_is_followed_while_it_runs(tab, served, recipe):
    folder = served.folder / "<b>new"
    folder.mkdir()
    recipe.save(folder / "recipe.yaml")
    log = folder / "metrics.jsonl"
    write = (
        '{{"step": {}, "loss": {}, "learning_rate": 0.01, "tokens": 1, "seconds": 1.0}}\n'.format
    )
    log.write_text(write(1, 5.5), encoding="utf-8")
    tab.get_by_role("link", name="Runs").click()
    loss = tab.get_by_role("img", name=re.compile("^Loss by step"))
    expect(loss).to_have_attribute("aria-label", "Loss by step: <b>new 5.5")
    with log.open("a", encoding="utf-8") as file:
        file.write(write(2, 4.5) + write(3, 3.25))
    expect(loss).to_have_attribute("aria-label", "Loss by step: <b>new 3.25")
    expect(tab.get_by_role("row", name="new").locator("td").nth(3)).to_have_text("3 / 12")
    log.write_text(write(1, 9.5), encoding="utf-8")  # begun anew
    expect(loss).to_have_attribute("aria-label", "Loss by step: <b>new 9.5")
    assert tab.locator("main b").count() == 0
    (folder / "report.html").write_text(
        "<p id=p>plain</p><script>p.textContent = origin</script>", encoding="utf-8"
    )
    with log.open("a", encoding="utf-8") as file:
        file.write(write(2, 1.0))
    with tab.context.expect_page() as report:
        tab.get_by_role("link", name="Report").click()
    expect(report.value.locator("p")).to_have_text(
        "null"
    )  # an origin of its own: it reaches nothing here


def test_systems_show_claims_pictures_and_a_trial(tab, served):
    tab.get_by_role("link", name="Systems").click()
    tab.get_by_label("Search systems").fill("gpt3")
    tab.get_by_text("gpt3", exact=True).click()
    expect(tab.locator("section.claim code", has_text="gpt3.parameter-counts")).to_be_visible()
    expect(tab.get_by_alt_text("Measured: gpt3.parameter-counts")).to_be_visible()
    tab.get_by_role("button", name="Try at toy size").click()
    expect(tab.locator(".trial h2")).to_have_text("Trial of gpt3: finished", timeout=3 * PATIENCE)
    expect(tab.get_by_label("Output")).to_contain_text("gpt3.parameter-counts")


def test_a_key_opens_a_closed_server(browser, tmp_path):
    secret = add_key(tmp_path / "keys.json", "ana")
    with Served(tmp_path / "runs", Access(keys=Keys(tmp_path / "keys.json"))).listening() as served:
        tab = browser.new_page()
        tab.goto(served.address)
        expect(tab.get_by_role("status").first).to_contain_text("a key is needed")
        tab.get_by_role("button", name="Key", exact=True).click()
        tab.get_by_role("textbox", name="Key").fill(secret)
        tab.get_by_role("button", name="Use").click()
        expect(tab.get_by_label("Run", exact=True)).to_have_value("parrot")
        say(tab, "Hello")
        stored = tab.evaluate("JSON.stringify(localStorage)")
        assert secret not in stored and tab.evaluate("sessionStorage['maquette/key']") == secret
        tab.close()


@pytest.mark.parametrize("view", ["write", "origin", "sliders", "pictures", "runs", "systems"])
def test_a_phone_needs_no_sideways_scroll(chromium, served, view):
    context = chromium.new_context(viewport={"width": 360, "height": 740}, has_touch=True)
    context.set_default_timeout(PATIENCE)
    tab = opened(context, served, view)
    if view == "write":
        say(tab, "HOSTILE", None)
        finished(tab)
        tab.get_by_role("button", name="Parameters").click()
        expect(tab.get_by_label("Temperature")).to_be_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert not tab.wrong
    context.close()


COLOURS = """() => {
  const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 });
  const context = canvas.getContext('2d', { willReadFrequently: true });
  const paint = (colour) => { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); };
  const pixel = () => [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const contrast = (e) => {
    const stack = [];
    for (let one = e; one; one = one.parentElement) stack.unshift(one);
    for (const one of stack) paint(getComputedStyle(one).backgroundColor);
    const behind = light(pixel());
    paint(getComputedStyle(e).color);
    const both = [light(pixel()), behind].sort((x, y) => y - x);
    return (both[0] + 0.05) / (both[1] + 0.05);
  };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const all = [...document.querySelectorAll('body *')].filter((e) => own(e) && e.checkVisibility());
  const kept = all.filter((e) => !e.disabled && !e.closest('.skip, .unseen, noscript'));
  return kept.map((e) => [contrast(e), `${e.tagName}.${e.className}: ${e.textContent.slice(0, 30)}`]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_in_light_and_dark(chromium, served, scheme):
    """Every text of every view has the contrast that WCAG's level AA asks for, 4.5."""
    context = chromium.new_context(color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    tab = opened(context, served)
    say(tab, "Hello")
    tab.locator(".token").nth(3).hover()
    tab.get_by_role("dialog", name="Token").get_by_role("button", name="X").click()
    finished(tab)
    seen = 0
    for view in ("write", "origin", "sliders", "pictures", "runs", "systems"):
        tab.goto(f"{served.address}/#{view}")
        expect(tab.locator(f"nav a[href='#{view}'][aria-current]")).to_be_visible()
        measured = tab.evaluate(COLOURS)
        assert [one for one in measured if one[0] < 4.5] == []
        seen += len(measured)
    assert seen > 60
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.get_by_role("button", name="Colours").click()  # light, whatever the system says
    if scheme == "dark":
        expect(tab.locator("body")).not_to_have_css("background-color", background)
    else:
        expect(tab.locator("body")).to_have_css("background-color", background)
    context.close()
