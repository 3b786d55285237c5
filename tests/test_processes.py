"""Several devices and several processes compute what one device computes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("optax")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
pytest.importorskip("safetensors")
WORKER = pathlib.Path(__file__).with_name("worker.py")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ran(commands, devices, variables=None):
    """What processes that run at once have printed; `variables` extends the environment of each."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    common = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [
        subprocess.Popen([sys.executable, *command], env={**common, **more}, **pipes)
        for command, more in zip(commands, variables or [{}] * len(commands), strict=True)
    ]
    try:
        ends = [process.communicate(timeout=400) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, err) in zip(started, ends, strict=True):
        assert process.returncode == 0, err.decode()
    return [out.decode() for out, _ in ends]


def trained(processes, devices):
    address = f"127.0.0.1:{free_port()}"
    commands = [[WORKER, address, str(processes), str(n)] for n in range(processes)]
    return [json.loads(out.splitlines()[-1]) for out in ran(commands, devices)]


@pytest.fixture(scope="module")
def alone():
    (found,) = trained(1, 1)
    return found


@pytest.mark.parametrize(("processes", "devices"), [(1, 8), (2, 1), (2, 4)])
def test_as_on_one_device(processes, devices, alone):
    every = trained(processes, devices)
    assert len(every) == processes
    for found in every:
        assert found["devices"] == processes * devices
        np.testing.assert_allclose(found["losses"], alone["losses"], atol=1e-5, rtol=0)
        np.testing.assert_allclose(found["options"], alone["options"], rtol=1e-4)
    assert alone["losses"][-1] < alone["losses"][0] - 0.5  # it learns


def slurm(port, processes):
    """What SLURM says to each process of a step."""
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": str(processes)}
    each = [{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)} for n in range(processes)]
    return [{**step, **one, "JAX_COORDINATOR_PORT": str(port)} for one in each]


@pytest.mark.parametrize(("processes", "devices", "detected"), [(1, 4, False), (2, 1, True)])
def test_the_demo_trains_on_all_devices_and_joins_a_cluster(processes, devices, detected, tmp_path):
    """To the losses of one device; the first process alone writes and prints."""
    text = tmp_path / "text.txt"
    text.write_text("one two three. " * 120, encoding="utf-8")
    small = ["--hidden", "8", "--steps", "30", "--batch", "4", "--chunk", "8", "--sample", "20"]
    small += ["--distances"]
    command = ["-m", "jaxlstm", "--text", str(text), *small, "--cells", "gru", "lstm", "--output"]
    ran([[*command, str(tmp_path / "alone")]], 1)
    together, port = [*command, str(tmp_path / "together")], free_port()
    cluster = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(processes)]
    if detected:
        first, *others = ran([together] * processes, devices, slurm(port, processes))
    else:
        named = [[*together, *cluster, "--process", str(n)] for n in range(processes)]
        first, *others = ran(named, devices)
    assert f"{processes * devices} devices" in first
    assert not any("bits" in out for out in others)
    one, several = (
        json.loads((tmp_path / name / "results.json").read_text())["runs"]
        for name in ("alone", "together")
    )
    for a, b in zip(one, several, strict=True):
        np.testing.assert_allclose(a["held_out"], b["held_out"], atol=1e-5, rtol=0)
        assert a["held_out"][-1][1] < a["held_out"][0][1]
