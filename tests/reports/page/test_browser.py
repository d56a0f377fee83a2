"""The page in a real browser: hostile text runs nothing, loads nothing, breaks no layout; search, order and colors work.

One Chromium looks at everything: a page of ours loads reports into frames of several widths from a server of ours, measures
them, and prints what it found. A control page that does run and load things shows that the measuring sees it.
"""

import html
import json
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bakeoff.reports import write_report
from bakeoff.reports.page import report as report_module

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")

WIDTHS = (390, 1280)
LOOK = """<!doctype html><title>look</title><pre></pre><script>
const found = {};
const frames = [["control", "/control.html", 800], ...WIDTHS.map((w) => [`report ${w}`, "/report/index.html", w])];
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const overflow = (page) => page.documentElement.scrollWidth - page.documentElement.clientWidth;
async function look([name, source, width]) {
  const frame = document.createElement("iframe");
  Object.assign(frame.style, { width: `${width}px`, height: "900px", border: "0" });
  document.body.append(frame);
  await new Promise((done) => { frame.onload = done; frame.src = source; });
  await wait(300);
  const page = frame.contentDocument;
  const seen = { pwned: frame.contentWindow.pwned ?? null, overflow: overflow(page), title: page.title };
  seen.body = frame.contentWindow.getComputedStyle(page.body).display;
  const cards = () => Array.from(page.querySelectorAll(".card"));
  seen.cards = cards().length;
  if (seen.cards) {
    for (const details of page.querySelectorAll("details")) details.open = true;
    seen.opened = overflow(page);
    const outside = (card) => Array.from(card.querySelectorAll(".prompt, .answers > div, .by, .text")).some((part) => {
      const [inner, outer] = [part.getBoundingClientRect(), card.getBoundingClientRect()];
      return inner.width > 0 && (inner.right > outer.right + 1 || inner.left < outer.left - 1);
    });
    seen.outside = cards().filter(outside).length;
    const search = page.querySelector("input[type=search]");
    search.value = "NEEDLE";
    search.dispatchEvent(new Event("input"));
    seen.searched = cards().filter((card) => !card.hidden).map((card) => card.textContent.includes("needle"));
    search.value = "";
    search.dispatchEvent(new Event("input"));
    const order = page.querySelector(".tools select");
    for (const key of ["gain", "hacking", "index"]) {
      order.value = key;
      order.dispatchEvent(new Event("change"));
      seen[key] = cards().map((card) => (key === "index" ? card.querySelector(".prompt").textContent : card.dataset[key]));
    }
    const token = page.querySelector("article .u3");
    const background = () => frame.contentWindow.getComputedStyle(token).backgroundColor;
    seen.colored = background();
    page.querySelector(".tools input[type=checkbox]").click();
    seen.plain = background();
    frame.contentWindow.location.hash = "#cells-0-0";
    await wait(100);
    seen.cells = page.getElementById("cells").open;
  }
  found[name] = seen;
}
(async () => {
  for (const frame of frames) await look(frame);
  document.querySelector("pre").textContent = JSON.stringify(found);
})();
</script>"""


def corpus(address):
    """Texts that try to run, load, hide, reorder or stretch; ``address`` is where a load would be noticed."""
    return [
        "<script>window.pwned = 1</script>",
        f'</script><script src="{address}/a.js"></script>',
        f'<img src="{address}/b.png" onerror="window.pwned = 2">',
        '"><svg onload="window.pwned = 3"><animate onbegin="window.pwned = 4" attributeName=x dur=1s>',
        f"<iframe src='{address}/c.html'></iframe><object data='{address}/d'></object><embed src='{address}/e'>",
        f"<style>@import url({address}/f.css); body {{ display: none }} * {{ background: url({address}/g.png) }}</style>",
        f'<link rel="stylesheet" href="{address}/h.css"><link rel="preload" as="image" href="{address}/i.png">',
        f'<meta http-equiv="refresh" content="0;url={address}/j"><base href="{address}/k/">',
        '<input autofocus onfocus="window.pwned = 5"><details open ontoggle="window.pwned = 6">',
        '<a href="javascript:window.pwned = 7" style="position: fixed; inset: 0">click</a>',
        "</bdi></div></article></main></body></html><!-- ]]> <textarea><title><plaintext>",
        '" style="position:fixed;inset:0;z-index:9" onmouseover="window.pwned=8" x="',
        "\u202e\u2066 reordered \u202d\u2069\u200f\u061c \u200b\u2060\ufeff \U000e0041",
        "null \x00 bell \x07 escape \x1b[31m \x7f \x85 \u2028\u2029",
        "W" * 2**20,
        "\ufdfd" * 300 + "𒐫" * 300 + "z" + "\u0301\u0336\u0489" * 400,
        "\n" * 3000 + "\t" * 3000,
        "needle \ud800 \udfff",
    ]


@pytest.fixture(scope="module")
def seen(tmp_path_factory, synthetic):
    """What Chromium found in each frame, and the addresses that it asked for."""
    asked = []
    pages = {"/look.html": LOOK.replace("WIDTHS", json.dumps(WIDTHS))}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = pages.get(self.path, "").encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    pages["/control.html"] = f"<script>window.pwned = 9</script><img src={address}/control.png>"
    pages["/report/index.html"] = hostile_report(tmp_path_factory.mktemp("hostile"), synthetic, address)
    try:
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--virtual-time-budget=60000", "--window-size=1400,1000", "--dump-dom", f"{address}/look.html"]
        done = subprocess.run(command, capture_output=True, timeout=300, check=False)
    finally:
        server.shutdown()
        server.server_close()
    told = re.search(r"<pre>(.+?)</pre>", done.stdout.decode("utf-8", "replace"), re.DOTALL)
    assert told, done.stderr.decode("utf-8", "replace")[-2000:]
    return json.loads(html.unescape(told.group(1))), asked


def hostile_report(run, synthetic, address):
    """A report whose every text is hostile, prompts and token pieces included; one figure, since it is not about those."""
    texts = corpus(f"{address}/stolen")
    planned = [("t", label, 0) for label in ("ppo", "dpo")]
    for _, label, seed in planned:
        final = {"proxy": 1.0, "gold": 0.5, "kl": 3.0, "objective": 0.5, "win_rate": 0.6}
        folder = synthetic.write_cell(run, "t", label, seed, final=final, texts=texts, evaluations=2)
        lines = []
        for number, line in enumerate((folder / "samples.jsonl").read_text().splitlines()):
            row = json.loads(line)
            row["prompt"] = row["completion"] if len(row["completion"]) < 1000 else row["prompt"]
            row["proxy"] += number % 4
            row["gold"] = row["proxy"] * ((number * 7) % 5)
            if label == "ppo":  # whole texts as one token, with the strongest color
                row["tokens"], row["log_ratios"] = [row["completion"][:2000], "<b onclick=1>"], [2.0, -2.0]
            lines.append(json.dumps(row).encode())
        broken = json.dumps(
            {**row, "prompt_index": 99, "prompt": "broken", "completion": "BROKEN", "tokens": None}
        ).encode()
        lines.append(broken.replace(b"BROKEN", b"\xff\xfe \xc3\x28 \xed\xa0\x80"))
        (folder / "samples.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    synthetic.write_manifest(run, suite={"name": texts[0]}, planned=planned, tasks={"t": {"model": texts[2]}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_module, "FIGURES", {"cost": report_module.FIGURES["cost"]})
        return write_report(run).read_text(encoding="utf-8")


def test_the_measuring_sees_what_runs_and_loads(seen):
    found, asked = seen
    assert found["control"]["pwned"] == 9
    assert "/control.png" in asked


def test_nothing_runs_and_nothing_is_loaded(seen):
    found, asked = seen
    for width in WIDTHS:
        assert found[f"report {width}"]["pwned"] is None
        assert found[f"report {width}"]["body"] == "block"
        assert found[f"report {width}"]["title"].startswith("<script>")
    ours = {"/look.html", "/control.html", "/control.png", "/report/index.html", "/favicon.ico"}
    assert set(asked) <= ours


def test_the_layout_holds_at_every_width(seen):
    for width in WIDTHS:
        page = seen[0][f"report {width}"]
        assert page["cards"] == 19
        assert (page["overflow"], page["opened"], page["outside"]) == (0, 0, 0)


def test_samples_are_searched_sorted_and_colored(seen):
    page = seen[0]["report 390"]
    assert page["searched"] == [True]
    for key in ("gain", "hacking"):
        values = [float(value) for value in page[key] if value != "nan"]
        assert page[key][len(values) :] == ["nan"] * (len(page[key]) - len(values))  # the unknown come last
        assert values == sorted(values, reverse=True)
        assert len(set(values)) > 1
    assert page["index"][-1] == "broken"
    assert page["colored"] != page["plain"] == "rgba(0, 0, 0, 0)"


def test_a_link_from_a_table_opens_the_cells(seen):
    assert seen[0]["report 1280"]["cells"] is True
