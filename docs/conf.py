"""The documentation site: docstrings, the README and the executed notebooks (`make docs`)."""

import ast
import inspect
import pathlib
import re
import shutil
import textwrap

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import jaxlstm

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
(HERE / "notebooks").mkdir(exist_ok=True)
for notebook in (ROOT / "notebooks").glob("*.ipynb"):  # only what has changed is built again
    copy = HERE / "notebooks" / notebook.name
    if not copy.exists() or copy.read_bytes() != notebook.read_bytes():
        shutil.copy2(notebook, copy)
for picture in (ROOT / "benchmarks" / "results").glob("*.png"):
    (HERE / "benchmarks").mkdir(exist_ok=True)
    shutil.copy2(picture, HERE / "benchmarks")
# Pages of the repository that are pages of the site, and where.
ADOPTED = {name: name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")}
RESULTS = [*(ROOT / "benchmarks" / "results").glob("*.md"), ROOT / "benchmarks" / "NOTES.md"]
ADOPTED |= {path.relative_to(ROOT).as_posix(): f"benchmarks/{path.name}" for path in RESULTS}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def links(text, source, place):
    """Links of a page at `source` in the repository, as one at `place` in `docs` has them.

    What they name is a page or a picture of the site, or it is text.
    """

    def link(found):
        mark, said, target = found.groups()
        if "://" in target or target.startswith("#"):
            return found[0]
        path, hash_, anchor = target.partition("#")
        named = (ROOT / source).parent.joinpath(path).resolve()
        if not named.is_relative_to(ROOT):
            return said
        named = named.relative_to(ROOT).as_posix()
        here = ADOPTED.get(named, named.removeprefix("docs/"))
        here = "index.md" if here == "README.md" else here
        if not (named in ADOPTED or (HERE / here).is_file()):
            return said
        up = "../" * place.count("/")
        return f"{mark}[{said}]({up}{here}{hash_}{anchor})"

    return LINK.sub(link, text)


def write(path, text):
    """Leaves a page that has not changed as it is, so that it is not built again."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


for source, place in ADOPTED.items():
    write(HERE / place, links((ROOT / source).read_text(), source, place))

project = "jaxlstm"
author = copyright = "The jaxlstm authors"
release = version = jaxlstm.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = [
    "_build",
    ".jupyter_cache",
    "README.md",
    "jupyter_execute",
    "notebooks/.ipynb_checkpoints",
]
html_theme = "furo"
html_title = f"jaxlstm {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_style = "friendly"

# Markdown: `$` is mathematics, headings are link targets; notebooks are shown as they are stored.
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
stored = lambda path: '"output_type"' in path.read_text()  # by `store_notebooks.py`
nb_execution_mode = "cache"
nb_execution_excludepatterns = [
    f"notebooks/{path.name}" for path in (HERE / "notebooks").glob("*.ipynb") if stored(path)
]
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_mime_priority_overrides = [("*", "image/png", 0)]

# Docstrings are Markdown in the small: `code`, fences and indented equations.
default_role = "code"
autodoc_typehints = "none"  # `signature` shows them as they are written
autodoc_mock_imports = ["flax", "haiku"]
maximum_signature_line_length = 72
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
nitpicky = False
html_math_renderer = "mathml"
linkcheck_ignore = [r"https://(doi\.org|www\.jstor\.org)/.*"]


def markdown(app, what, name, obj, options, lines):
    """Fences become code blocks, indented equations literal ones, and numbers of papers links."""
    text = "\n".join(lines)
    paper = r"`arXiv:\1 <https://arxiv.org/abs/\1>`__"
    text = re.sub(r"\barXiv:(\d{4}\.\d{4,5})", paper, text)
    text = re.sub(
        r"```(\w*)\n(.*?)\n```",
        lambda m: (
            f".. code-block:: {m[1] or 'text'}\n\n" + re.sub("(?m)^(?=.)", "    ", m[2]) + "\n"
        ),
        text,
        flags=re.S,
    )
    found = []
    in_block, before_blank = False, True
    for line in text.split("\n"):
        indented = line.startswith("    ") and bool(line.strip())
        if line.startswith("..") or re.match(r"(Args|Returns|Raises|Attributes):", line):
            in_block = True
        elif line.strip() and not line.startswith(" "):
            in_block = False
        elif indented and before_blank and not in_block:
            found += [".. code-block:: text", "    :class: equation", ""]
            in_block = True
        found.append(line)
        before_blank = not line.strip()
    lines[:] = found


def signature(app, what, name, obj, options, arguments, returned):
    """Arguments and types as the source has them: shapes are words there."""
    try:
        if inspect.isclass(obj):
            given = _fields(obj)
            return given and (given, None)
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(obj))).body
    except (OSError, TypeError, ValueError):
        return None
    if not isinstance(tree, ast.FunctionDef):
        return None
    if what in ("method", "property") and tree.args.args:
        tree.args.args = tree.args.args[1:]
    if any(isinstance(d, ast.Name) and d.id == "property" for d in tree.decorator_list):
        return None
    result = ast.unparse(tree.returns) if tree.returns else None
    return f"({ast.unparse(tree.args)})", result


def _fields(cls):
    """The fields of a NamedTuple with their types, or the arguments of `__init__`."""
    for base in cls.__mro__:
        if "_fields" in vars(base) or "__dataclass_fields__" in vars(base):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            public = [
                ast.unparse(item)
                for item in tree.body
                if isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.unparse(item)
            ]
            return f"({', '.join(public)})"
    return None


def fields(app, what, name, obj, skip, options):
    """The fields of a NamedTuple that say nothing of themselves are left to its signature."""
    return skip or (getattr(obj, "__doc__", None) or "").startswith("Alias for field")


def mathml(translator, node):
    """Formulas that a browser draws by itself: no script, nothing fetched."""
    block = isinstance(node, nodes.math_block)
    drawn = tex2mathml(node.astext(), as_block=block)
    translator.body.append(f'<div class="formula">{drawn}</div>' if block else drawn)
    raise nodes.SkipNode


def label(app, tree, name):
    """The heads of columns in the cells of a table, where a row is a list: `site.css`."""
    for table in tree.findall(nodes.table):
        head, body = table.next_node(nodes.thead), table.next_node(nodes.tbody)
        if not head or not body:
            continue
        titles = [entry.astext() for entry in head.findall(nodes.entry)]
        if len(titles) > 5:
            table["classes"] += ["wide", "widest"] if len(titles) > 9 else ["wide"]
            for text in list(body.findall(nodes.Text)):  # a number is not broken at its exponent
                if re.search(r"\de-\d", text):
                    whole = re.sub(r"(?<=\de)-(?=\d)", "\N{NON-BREAKING HYPHEN}", text)
                    text.parent.replace(text, nodes.Text(whole))
        for row in body.findall(nodes.row):
            for title, entry in list(zip(titles, row.findall(nodes.entry)))[1:]:
                if not entry.astext().strip():
                    entry["classes"].append("empty")
                elif title and entry.children and len(titles) > 2:
                    entry.children[0].insert(0, nodes.inline("", title, classes=["column"]))


def describe(app, tree, name):
    """Pictures that code drew have alternative text: that of their cell, or their section's."""
    for image in tree.findall(nodes.image):
        if image.get("alt", image["uri"]) in ("", image["uri"]) or image["alt"].endswith(".png"):
            section = image
            while section is not None and not isinstance(section, nodes.section):
                section = section.parent
            title = section.next_node(nodes.title).astext() if section else name
            image["alt"] = f"What the code above draws: {title}"


def sources(app, env):
    """Modules that are only mocked here have no page of source to list."""
    known = getattr(env, "_viewcode_modules", {})
    for name in [name for name, entry in known.items() if not entry]:
        del known[name]


def read(app, name, content):
    """The pages of `docs`, whose links lead out of it on a code host; commands are no output."""
    if "/" not in name:
        content[0] = re.sub(r"\]\(\.\./benchmarks/(results/)?", "](benchmarks/", content[0])
    content[0] = content[0].replace("```console\n", "```sh\n")


def setup(app):
    app.connect("source-read", read)
    app.connect("env-updated", sources, priority=900)
    app.connect("doctree-resolved", label)
    app.connect("doctree-resolved", describe)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    # After napoleon, which has its own reading of indented sections.
    app.connect("autodoc-process-docstring", markdown, priority=100)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", fields)
