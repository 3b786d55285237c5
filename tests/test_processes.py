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
WORKER = pathlib.Path(__file__).with_name("worker.py")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def trained(processes, devices):
    """What every process printed."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, WORKER, f"127.0.0.1:{free_port()}", str(processes)]
    started = [
        subprocess.Popen(
            [*command, str(n)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for n in range(processes)
    ]
    try:
        ends = [process.communicate(timeout=400) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, err) in zip(started, ends, strict=True):
        assert process.returncode == 0, err.decode()
    return [json.loads(out.splitlines()[-1]) for out, _ in ends]


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
