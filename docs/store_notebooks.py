"""Runs notebooks and stores what they print and draw: `python docs/store_notebooks.py 05 06`.

A code host then shows them as a run leaves them, and so does the site, which runs none that has
its outputs.  `make notebooks` compares what is stored with what a run gives.
"""

import argparse
import base64
import pathlib
import struct
import time

import nbformat

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
LARGEST = 200_000  # bytes of one picture


def run(path, limit=600):
    """The notebook as a run leaves it."""
    import nbclient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    options = {"timeout": limit, "kernel_name": "python3", "record_timing": False}
    resources = {"metadata": {"path": str(FOLDER)}}
    nbclient.NotebookClient(notebook, resources=resources, **options).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = list(tidied(cell.outputs))
    notebook.metadata.pop("widgets", None)
    notebook.metadata.get("language_info", {}).pop("version", None)  # of whoever ran it last
    return notebook


def tidied(outputs):
    """Streams joined, progress and warnings left out, and each picture as one PNG."""
    printed = None
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stdout" and printed is None:
                printed = output
                yield output
            elif output.name == "stdout":
                printed.text += output.text
            continue
        data = output.get("data", {})
        if "image/png" in data:
            size = len(base64.b64decode(data["image/png"]))
            assert size <= LARGEST, f"a picture of {size:,} bytes"
            data.pop("text/plain", None)
        output.metadata = {}
        yield output


def pixels(picture):
    """Width and height of a PNG in base64."""
    return struct.unpack(">II", base64.b64decode(picture)[16:24])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", help="how their file names begin: 05 06")
    for name in parser.parse_args().names:
        for path in sorted(FOLDER.glob(f"{name}*.ipynb")):
            begun = time.monotonic()
            nbformat.write(run(path), path)
            print(f"{path.stem}: {time.monotonic() - begun:.0f} s, {path.stat().st_size:,} bytes")
