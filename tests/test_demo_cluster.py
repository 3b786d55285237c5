"""Processes of the demo that cannot meet: one error in each of them."""

import socket
import threading
import time

import pytest

from jaxlstm.__main__ import main
from jaxlstm.demo.cluster import ClusterError, meet


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def met(*processes, wait=20.0):
    """What came of each `(number, count)`: an error, or None."""
    address, found = f"127.0.0.1:{free_port()}", {}

    def one(at, number, count):
        try:
            found[at] = meet(address, count, number, wait)
        except ClusterError as e:
            found[at] = str(e)

    threads = [threading.Thread(target=one, args=(i, *p)) for i, p in enumerate(processes)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(60)
    return [found[i] for i in range(len(processes))]


@pytest.mark.parametrize("order", [[0], [0, 1], [1, 0], [2, 3, 0, 1]], ids=str)
def test_all_meet_in_any_order(order):
    assert met(*[(number, len(order)) for number in order]) == [None] * len(order)


def test_a_process_that_does_not_come():
    for message in met((0, 3), (2, 3), wait=1.0):
        assert message.startswith("of 3 processes only [0, 2] came")


def test_process_0_that_does_not_come():
    (message,) = met((1, 2), wait=0.5)
    assert "process 0 was not reached at 127.0.0.1:" in message
    assert "within 0.5 s" in message
    assert "refused" in message


def test_a_number_given_twice():
    assert met((0, 3), (1, 3), (1, 3)) == ["two processes have --process 1."] * 3


def test_other_counts():
    assert met((0, 2), (1, 3)) == ["process 1 has --processes 3, and process 0 has 2."] * 2


def test_what_is_no_process_is_not_counted():
    """Such as one that looks for open ports."""
    port, found = free_port(), []
    server = threading.Thread(target=lambda: found.append(meet(f"[::1]:{port}", 2, 0, 20.0)))
    server.start()
    for message in (b"GET / HTTP/1.1\r\n\r\n", b"", b"\xff" * 200, b"jaxlstm one two\n"):
        while True:
            try:
                stranger = socket.create_connection(("127.0.0.1", port), 5)
                break
            except OSError:
                time.sleep(0.05)
        with stranger:
            stranger.sendall(message)
    meet(f"localhost:{port}", 2, 1, 20.0)
    server.join(60)
    assert found == [None]


def test_another_service_at_the_address():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            peer, _ = server.accept()
            with peer:
                peer.recv(100)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer).start()
        port = server.getsockname()[1]
        with pytest.raises(ClusterError, match="something else than process 0 answers at"):
            meet(f"127.0.0.1:{port}", 2, 1, 5.0)


def cluster(port, process, *more):
    flags = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(process)]
    return [*flags, "--wait", "1", *more]


@pytest.mark.parametrize("case", ["nobody", "alone", "taken", "devices"])
def test_the_command_ends_with_one_error(case, capsys, tmp_path):
    pytest.importorskip("optax")
    pytest.importorskip("matplotlib")
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1] if case == "taken" else free_port()
        arguments = {
            "nobody": (cluster(port, 1), "was not reached at 127.0.0.1:"),
            "alone": (cluster(port, 0), "of 2 processes only [0] came"),
            "taken": (cluster(port, 0), f"cannot listen at port {port}: Address already in use"),
            "devices": (["--devices", "999"], "JAX sees 2 devices; got --devices 999."),
        }
        given, message = arguments[case]
        assert main([*given, "--output", str(tmp_path)]) == 2
    *before, error = capsys.readouterr().err.splitlines()
    assert error.startswith("python -m jaxlstm: error: ")
    assert message in error
    assert len(before) <= 1  # whom it waits for


@pytest.mark.parametrize("address", ["here", ":1", "here:", "here:x", "here:0", "here:70000"])
def test_what_is_no_address(address, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--coordinator", address, "--processes", "2", "--process", "0"])
    assert caught.value.code == 2
    assert "must be HOST:PORT, such as node1:1234" in capsys.readouterr().err
