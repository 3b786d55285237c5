"""The built site: no dead links, every picture described, nothing wider than a screen.

`make docs` runs it on what it built; elsewhere there is nothing to look at.
"""

import functools
import html.parser
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path
from typing import ClassVar

import pytest

SITE = Path(os.environ.get("JAXLSTM_SITE", "")).resolve()
pytestmark = pytest.mark.skipif(
    "JAXLSTM_SITE" not in os.environ, reason="JAXLSTM_SITE names the built site: `make docs`"
)
OURS = ("_modules", "_static", "genindex", "py-modindex", "search")  # those of Sphinx are not
WIDTHS = (390, 1400)


class Page(html.parser.HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.pictures = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[k] for k in ("id", "name") if found.get(k)}
        self.links += [found[k] for k in ("href", "src") if found.get(k)]
        if tag == "img":
            self.pictures.append((found.get("src"), found.get("alt")))


@pytest.fixture(scope="module")
def pages():
    found = {path: Page(path) for path in SITE.rglob("*.html") if "_static" not in path.parts}
    assert len(found) > 20
    return found


def own(path):
    return path.relative_to(SITE).parts[0].removesuffix(".html") not in OURS


def test_no_link_is_dead(pages):
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = (path.parent / urllib.parse.unquote(parts.path)).resolve()
            anchor = urllib.parse.unquote(parts.fragment)
            known = pages[target].ids if target in pages else set()
            if not target.exists() or (anchor and own(path) and anchor not in known):
                dead.append(f"{path.relative_to(SITE)}: {link}")
    assert not dead, "\n".join(dead)


def test_every_picture_is_described(pages):
    missing = [
        f"{path.relative_to(SITE)}: {source}"
        for path, page in pages.items()
        for source, words in page.pictures
        if not words or words.endswith((".png", ".svg"))
    ]
    assert not missing, "\n".join(missing)


def test_notebooks_are_shown_with_what_they_print(pages):
    shown = [path for path in pages if path.parent.name == "notebooks" and path.parent != SITE]
    assert len(shown) >= 8
    for path in shown:
        assert "cell_output" in path.read_text(), f"{path.name} was not executed"


MEASURE = """<script>
async function measure() {
  const found = [];
  for (const page of PAGES) {
    const frame = document.createElement('iframe');
    frame.style.cssText = 'border: 0; height: 900px; width: WIDTHpx';
    frame.src = page;
    document.body.append(frame);
    await new Promise(done => { frame.onload = done; });
    const root = frame.contentDocument.documentElement;
    const over = root.scrollWidth - root.clientWidth;
    if (over > 0) {
      const wide = [...root.querySelectorAll('*')].filter(
        e => e.getBoundingClientRect().right > root.clientWidth + 1);
      found.push([page, over, wide.slice(0, 3).map(e => e.outerHTML.slice(0, 120))]);
    }
    frame.remove();
  }
  await fetch('/found', {method: 'POST', body: JSON.stringify(found)});
}
measure();
</script>"""


class Server(http.server.SimpleHTTPRequestHandler):
    answers: ClassVar = {}

    def log_message(self, *args):
        pass

    def do_GET(self):
        if not self.path.startswith("/measure"):
            return super().do_GET()
        width = self.path.removeprefix("/measure")
        paths = [p for p in sorted(SITE.rglob("*.html")) if own(p)]
        names = [f"/{p.relative_to(SITE).as_posix()}" for p in paths]
        body = MEASURE.replace("PAGES", json.dumps(names)).replace("WIDTH", width)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f"<!doctype html><body>{body}</body>".encode())

    def do_POST(self):
        self.answers["found"] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_screen(width, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    Server.answers = {}
    handler = functools.partial(Server, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={tmp_path}", "--remote-debugging-port=0"]
        url = f"http://127.0.0.1:{server.server_port}/measure{width}"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([browser, *options, url], **quiet) as process:
            until = time.monotonic() + 120
            while "found" not in Server.answers and time.monotonic() < until:
                time.sleep(0.1)
            process.kill()
        server.shutdown()
    assert "found" in Server.answers, "the browser gave no answer"
    assert not Server.answers["found"]
