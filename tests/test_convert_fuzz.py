"""Files that are broken at random, and writers that are killed at random."""

import faulthandler
import json
import math
import os
import pathlib
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import time

import jax
import pytest

import jaxlstm
from jaxlstm import convert, wrappers
from networks import network
from test_wrappers import NOISY

pytest.importorskip("safetensors")
ODD = [-1, 0, 1, 2**31, 2**63 - 1, 2**63, 2**80, 1.5, 1e308, True, None, "", "w", "lstm", "rnn"]
ODD += [10**9, -(10**9), [10**9], {"tuple": []}, {"list": [1]}, {"float": "nan"}, "rhn", "mlstm"]
ODD += ["gru", "Stack", "Layer", "float64", "F32", [], {}, [0], [[]], {"node": "Layer"}]
WORDS = ["NaN", "Infinity", "-0", "1e999", "1E5", "0x10", "9" * 400, "9" * 5000, "1" + "0" * 4000]
WORDS += ['"\\ud800"', '"' + "a" * 10_000 + '"', "[" * 5000, "[" * 900 + "]" * 900, '{"a":' * 5000]
WORDS += [
    '{"a":' * 900 + "0" + "}" * 900,
    "[" + "0," * 5000 + "0]",
    "1.0",
    "-1",
    "truer",
    "\0",
    "é",
]


def bytewise(rng, raw):
    """Some bytes changed, dropped, doubled, or moved."""
    raw = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, to = rng.randrange(len(raw)), rng.randrange(len(raw))
        match rng.randrange(6):
            case 0:
                raw[at] ^= 1 << rng.randrange(8)
            case 1:
                raw[at] = rng.randrange(256)
            case 2:
                del raw[at : at + rng.randrange(1, 9)]
            case 3:
                raw[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                raw[at : at + 8] = raw[to : to + 8]
            case 5:
                del raw[at:]
        if not raw:
            break
    return bytes(raw)


def places(tree):
    """Every place in JSON data, as `(holder, key)`."""
    if isinstance(tree, (dict, list)):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from places(tree[key])


def disturbed(rng, tree):
    holder, key = rng.choice(list(places(tree)))
    other, its = rng.choice(list(places(tree)))
    match rng.randrange(4):
        case 0:
            holder[key] = rng.choice(ODD)
        case 1:
            del holder[key]
        case 2:
            holder[key] = json.loads(json.dumps(other[its]))
        case 3 if isinstance(holder, dict):
            holder[str(rng.choice(ODD))] = holder.pop(key)
    return tree


def numbered(rng, text):
    """One of its numbers changed wherever it stands, so that sizes agree with each other still."""
    old = rng.choice(re.findall(r"(?<![\w.])\d+(?![\w.])", text) or ["0"])
    new = str(rng.choice((0, 1, 2, 3, 7, 64, 300, 4096, 10**5, 10**9, 2**63 - 1, 10**30)))
    return re.sub(rf"(?<![\w.]){old}(?![\w.])", new, text)


def spelled(rng, text):
    """A value in words that JSON or its readers may not know."""
    found = list(re.finditer(r"(?<![\w.])\d+(?![\w.])|null|true|false", text))
    start, end = rng.choice(found).span() if found else (0, 0)
    new = rng.choice(WORDS)
    return text[:start] + new + text[end:]


def doubled(rng, text):
    """A name that stands twice."""
    found = list(re.finditer(r'"[^"]*":(?:"[^"]*"|\d+|null|\[[^][{}]*\])', text))
    if not found:
        return text
    one, other = rng.choice(found), rng.choice(found)
    return text[: one.start()] + other.group() + "," + text[one.start() :]


def grown(rng, text):
    """A part within itself many times over, or beside itself."""
    tree = json.loads(text)
    holder, key = rng.choice(list(places(tree)))
    part, count = json.dumps(holder[key]), rng.choice((2, 30, 40, 500))
    match rng.randrange(4):
        case 0:
            part = f'{{"tuple":[{",".join([part] * count)}]}}'
        case 1:
            part = '{"node":"Reverse","fields":{"node":' * count + part + "}}" * count
        case 2:
            part = "[" * count + part + "]" * count
        case 3:
            whole = f"[{part}]" if not part.startswith("[") else part
            part = json.dumps(json.loads(whole) * count)
    holder[key] = "the part"
    return json.dumps(tree).replace('"the part"', part)


def arrays(data, at=()):
    """The arrays of an architecture by the names that their tensors have."""
    if isinstance(data, dict) and data.keys() == {"array", "shape"}:
        yield ".".join(at), data
    elif isinstance(data, dict):
        parts = [v for k, v in data.items() if k in ("fields", "dict", "tuple", "list")]
        for part in parts:
            items = part.items() if isinstance(part, dict) else enumerate(part or [])
            for key, one in items:
                yield from arrays(one, (*at, str(key)))


BYTES = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
}


def agreeing(text):
    """A file whose tensors are those of this architecture; None where they would be large."""
    header, at = {}, 0
    try:
        for name, data in arrays(json.loads(text)):
            dtype, size = BYTES[data["array"]]
            end = at + size * math.prod(data["shape"])
            header[name] = {"dtype": dtype, "shape": data["shape"], "data_offsets": [at, end]}
            at = end
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None
    if type(at) is not int or not 0 <= at < 2**20:
        return None
    header["__metadata__"] = {"format": "jaxlstm", "version": "1", "architecture": text}
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + bytes(at)


def structured(rng, raw):
    """A header that is JSON still, mostly, and wrong."""
    (length,) = struct.unpack("<Q", raw[:8])
    text = raw[8 : 8 + length].decode()
    changes = (
        numbered,
        spelled,
        doubled,
        grown,
        lambda rng, text: json.dumps(disturbed(rng, json.loads(text))),
    )
    change = rng.choice(changes)
    if rng.random() < 0.6:
        header = json.loads(text)
        old = header["__metadata__"]["architecture"]
        new = header["__metadata__"]["architecture"] = change(rng, old)
        made = agreeing(new) if rng.random() < 0.6 else None
        if made is not None:
            return made
        text = json.dumps(header)
    else:
        text = change(rng, text)
    text = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + raw[8 + length :]


def broken(seed, number, raw):
    """The file of this number, which is the same whatever was made before it."""
    rng = random.Random(f"{seed} {number}")
    return rng.choice((bytewise, structured, structured))(rng, raw)


def tried(path, content):
    """Loads one broken file: it is refused by the one exception, or a network comes out."""
    path.write_bytes(content)
    try:
        params = convert.load(path)
    except convert.FileError as e:
        said = str(e)
    else:
        said = ""
        assert isinstance(params, jaxlstm.Node)
    assert len(said.encode()) < 8000  # whatever stands in the file
    return bool(said)


def networks():
    """Every node and every kind of option that a file can hold is in one of them."""
    lstm, key = jaxlstm.lstm, jax.random.key(0)
    noisy = NOISY["all"](network(lstm))
    quiet = wrappers.layer_norm(wrappers.clip_gradient(wrappers.learn_initial_state(noisy), 1.0))
    wide = wrappers.highway(key, wrappers.residual(jaxlstm.init(key, lstm, 4, 4)))
    options = {"peephole": True, "gate": ("hard_sigmoid", 0.25, 0.5), "clip": 3.0}
    deep = network(jaxlstm.cells.rhn(depth=3))
    return [
        jaxlstm.Stack([network(jaxlstm.rnn), jaxlstm.init(key, deep.cell, 5, 2)]),
        jaxlstm.Stack(
            (network(lstm, "stack"), jaxlstm.init(key, jaxlstm.cells.mlstm(heads=2), 5, 4))
        ),
        network(jaxlstm.cells.projected_lstm(projection=2), "bidirectional"),
        jaxlstm.Reverse(quiet),
        wrappers.dense(wrappers.window(network(jaxlstm.cells.lstm_variant(**options)), 2)),
        jaxlstm.Stack((wide, jaxlstm.init(key, jaxlstm.gru, 4, 2)), jaxlstm.Static(0.25)),
        jaxlstm.init_conv(key, jaxlstm.cells.peephole_lstm, 2, 3, (3,)),
        jax.vmap(lambda k: jaxlstm.init(k, jaxlstm.cells.mingru, 3, 2))(jax.random.split(key, 2)),
    ]


def test_broken_files(tmp_path):
    seed = 0
    convert.save(tmp_path / "whole", networks()[seed])
    raw = (tmp_path / "whole").read_bytes()
    refused = sum(tried(tmp_path / "broken", broken(seed, k, raw)) for k in range(120))
    assert 40 < refused < 120


# A process of its own, which the system ends when one file takes too much of either.
MOST_SECONDS, MOST_BYTES = 10, 2**28
CAMPAIGN = """
import pathlib, sys
import jax
sys.path.insert(0, sys.argv[1])
jax.config.update("jax_enable_x64", True)
from test_convert_fuzz import campaign
campaign(pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
"""


def campaign(folder, seed, count):
    """Tries many broken files within limits; what stands in the folder then is the last one."""
    convert.save(folder / "whole", networks()[seed % 8])
    raw = (folder / "whole").read_bytes()
    convert.load(folder / "whole")
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    within = pages * resource.getpagesize() + 2**31  # a file that takes all of it at once
    resource.setrlimit(resource.RLIMIT_AS, (within, within))
    faulthandler.register(signal.SIGPROF, chain=True)
    most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    refused, longest, largest, start = 0, 0.0, 0, time.process_time()
    for number in range(count):
        (folder / "number").write_text(str(number))
        content = broken(seed, number, raw)
        before, memory = time.process_time(), most()
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        refused += tried(folder / "broken", content)
        signal.setitimer(signal.ITIMER_PROF, 0)
        longest = max(longest, time.process_time() - before)
        largest = max(largest, most() - memory)
        assert most() - memory < MOST_BYTES, f"{(most() - memory) >> 20} MiB for one file"
        if number % 250 == 249:
            jax.clear_caches()
    took = time.process_time() - start
    said = f"seed {seed}: {count} files, {refused} refused, {took:.0f} s, longest {longest:.2f} s"
    print(f"{said}, {largest >> 20} MiB for one", flush=True)
    assert 0.3 * count < refused < count


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")
@pytest.mark.parametrize("seed", range(8))
def test_ten_thousand_broken_files_within_limits(seed, tmp_path):
    print(f"seed {seed}")
    here = str(pathlib.Path(__file__).parent)
    command = [sys.executable, "-c", CAMPAIGN, here, str(tmp_path), str(seed), "1280"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    print(done.stdout)
    number = (tmp_path / "number").read_text()
    assert done.returncode == 0, f"seed {seed}, file {number}: {done.returncode}\n{done.stderr}"


WRITER = """
import sys, jax, jaxlstm
from jaxlstm import convert, wrappers
nets = [jaxlstm.init(jax.random.key(k), jaxlstm.lstm, 64, 64) for k in range(2)]
print("ready", flush=True)
while True:
    for net in nets:
        convert.save(sys.argv[1], net)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    rng, path = random.Random(0), tmp_path / "network"
    nets = [jaxlstm.init(jax.random.key(k), jaxlstm.lstm, 64, 64, dtype="float32") for k in (0, 1)]
    convert.save(path, nets[0])
    for _ in range(12):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)
        found = convert.load(path)
        assert any(
            bool((found.w == net.w).all()) and bool((found.r == net.r).all()) for net in nets
        )
