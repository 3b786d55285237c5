"""Files that are broken at random, and writers that are killed at random."""

import json
import os
import random
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
ODD += ["gru", "Stack", "Layer", "float64", "F32", [], {}, [0], [[]], {"node": "Layer"}]


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


def structured(rng, raw):
    """A header that is JSON still, and wrong."""
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    if rng.random() < 0.5:
        architecture = json.loads(header["__metadata__"]["architecture"])
        header["__metadata__"]["architecture"] = json.dumps(disturbed(rng, architecture))
    else:
        header = disturbed(rng, header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + length :]


def tried(path, rng, raw):
    """Loads one broken file: it is refused by the one exception, or a network comes out."""
    broken = rng.choice((bytewise, structured))(rng, raw)
    path.write_bytes(broken)
    try:
        params = convert.load(path)
    except convert.FileError:
        return 1
    assert hasattr(params, "zeros")
    return 0


def networks():
    """Every node and every kind of option that a file can hold is in one of them."""
    lstm, key = jaxlstm.lstm, jax.random.key(0)
    noisy = NOISY["all"](network(lstm))
    quiet = wrappers.layer_norm(wrappers.clip_gradient(wrappers.learn_initial_state(noisy), 1.0))
    wide = wrappers.highway(key, wrappers.residual(jaxlstm.init(key, lstm, 4, 4)))
    options = {"peephole": True, "gate": ("hard_sigmoid", 0.25, 0.5), "clip": 3.0}
    return [
        network(jaxlstm.rnn),
        network(lstm, "stack"),
        network(jaxlstm.cells.projected_lstm(projection=2), "bidirectional"),
        jaxlstm.Reverse(quiet),
        wrappers.dense(wrappers.window(network(jaxlstm.cells.lstm_variant(**options)), 2)),
        jaxlstm.Stack((wide, jaxlstm.init(key, jaxlstm.gru, 4, 2)), jaxlstm.Static(0.25)),
        jaxlstm.init_conv(key, jaxlstm.cells.peephole_lstm, 2, 3, (3,)),
        jax.vmap(lambda k: jaxlstm.init(k, jaxlstm.cells.mingru, 3, 2))(jax.random.split(key, 2)),
    ]


SLOW = [pytest.param(seed, 3000, marks=pytest.mark.slow) for seed in range(1, 8)]


@pytest.mark.parametrize(("seed", "count"), [(0, 300), *SLOW])
def test_broken_files(seed, count, tmp_path):
    rng = random.Random(seed)
    params = networks()[seed]
    path = tmp_path / "broken"
    convert.save(path, params)
    raw = path.read_bytes()
    before_all = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, refused, longest = time.process_time(), 0, 0.0
    for _ in range(count):
        before = time.process_time()
        refused += tried(path, rng, raw)
        longest = max(longest, time.process_time() - before)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_all) * 1024
    took = time.process_time() - start
    said = f"{count} files, {refused} refused, {took:.0f} s, longest {longest:.2f} s"
    print(f"{said}, {grown >> 20} MiB more")
    assert refused > 0.5 * count
    assert longest < 10  # of the processor; a header that explodes takes minutes
    assert grown < 2**29  # what JAX keeps of every program that it traced, among it


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
