"""The code on the pages: what runs together, what it prints, and how far its figures are held.

A section, `## Title`, stands by itself: its blocks run in order and share their names.  In the
README every block stands by itself, and a page that says so is one section.  A block of `text`
after a block of Python is what that one prints.  Comments, which no reader sees, say what a test
must know:

    <!-- one program -->                at the top of a page: all of it is one section
    <!-- slow -->                       it takes more than a second or two
    <!-- figures within 30 % -->        of what follows; otherwise 2 %, and counts exactly
    <!-- figures of one machine -->     of what follows: times, which are not compared

`python tests/pages.py docs/recipes.md` runs the sections of a page, and writes what they print in
the place of what stands there; `--section WORDS` picks those whose title has these words.
"""

import contextlib
import dataclasses
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
MADE = ("cells.md", "papers.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [ROOT / "README.md"]
PAGES += sorted(p for p in (ROOT / "docs").glob("*.md") if p.name not in MADE)
# frameworks that are in no environment but that of `make test-peers`
PEERS = re.compile(
    r"^ *(?:import|from)\b.*\b(torch|keras|flax|haiku|equinox|onnxruntime|orbax)\b", re.M
)
FENCE = re.compile(r"^```(python|text)\n(.*?)^```$", re.M | re.S)
FIGURE = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


@dataclasses.dataclass
class Block:
    code: str
    printed: str | None = None
    within: float | None = 0.02  # None: not held
    counts: bool = True  # numbers without a point are held exactly


@dataclasses.dataclass
class Section:
    page: Path
    title: str
    blocks: list[Block]
    slow: bool

    @property
    def name(self) -> str:
        return f"{self.page.stem}: {self.title}"

    @property
    def code(self) -> str:
        return "\n".join(block.code for block in self.blocks)

    @property
    def peers(self) -> set[str]:
        return set(PEERS.findall(self.code))

    def run(self) -> list[str]:
        """What each block prints."""
        names = {"__name__": "page"}
        found = []
        for number, block in enumerate(self.blocks):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(block.code, f"{self.name}, block {number}", "exec"), names)
            found.append(printed.getvalue())
        return found


def sections(page: Path) -> list[Section]:
    text = page.read_text(encoding="utf-8")
    found = []
    whole = "<!-- one program -->" in text
    for part in [text] if whole else re.split(r"^(?=## )", text, flags=re.M):
        title = part.splitlines()[0].lstrip("# ") if part.startswith("#") else ""
        blocks: list[Block] = []
        at = 0
        for fence in FENCE.finditer(part):
            language, code = fence.groups()
            between = part[at : fence.start()]
            at = fence.end()
            if language == "python":
                blocks.append(Block(code))
            elif blocks and not re.sub(r"<!--.*?-->", "", between).strip():
                block = blocks[-1]
                block.printed = code
                if held := re.search(r"<!-- figures within (\d+) % -->", between):
                    block.within, block.counts = int(held[1]) / 100, False
                if "<!-- figures of one machine -->" in between:
                    block.within = None
        slow = "<!-- slow -->" in part
        if page.name == "README.md":
            found += [Section(page, f"{title} {i}", [b], slow) for i, b in enumerate(blocks)]
        elif blocks:
            found.append(Section(page, title, blocks, slow))
    return found


SECTIONS = [section for page in PAGES for section in sections(page)]


def differences(block: Block, printed: str) -> list[str]:
    """Where what a block printed is not what the page shows."""
    if block.printed is None:
        return []
    shown, came = block.printed.split("\n"), printed.split("\n")
    words = lambda text: [" ".join(FIGURE.sub("0", line).split()) for line in text]
    if words(shown) != words(came):
        return [f"the page shows\n{block.printed}\nand the block printed\n{printed}"]
    pairs = zip(FIGURE.findall(block.printed), FIGURE.findall(printed), strict=True)
    return [f"{a} on the page, {b} printed" for a, b in pairs if not _near(block, a, b)]


def _near(block: Block, shown: str, came: str) -> bool:
    if block.within is None or shown == came:
        return True
    if block.counts and re.fullmatch(r"[-+]?[\d,]+", shown):
        return False
    a, b = (float(text.replace(",", "")) for text in (shown, came))
    last = 10.0 ** -len(shown.partition(".")[2]) if "e" not in shown else 0
    return abs(a - b) <= block.within * abs(a) + last


def write(page: Path, words: str) -> None:
    """Puts what the blocks print in the place of what the page shows."""
    import os
    import tempfile

    text = page.read_text(encoding="utf-8")
    page = page.resolve()
    for section in sections(page):
        if words not in section.title:
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            printed = section.run()
            os.chdir(ROOT)
        for block, new in zip(section.blocks, printed, strict=True):
            if block.printed is not None:
                before, code, after = text.partition(f"```python\n{block.code}```")
                shown = f"```text\n{block.printed}```"
                text = before + code + after.replace(shown, f"```text\n{new}```", 1)
            elif new:
                print(f"{section.name} printed, and shows nothing:\n{new}")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--section", default="", metavar="WORDS")
    options = parser.parse_args()
    write(options.page.resolve(), options.section)
