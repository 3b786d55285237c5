"""Joins a cluster of processes, or says why it cannot be joined.

Before JAX connects the processes, they meet by plain sockets, at the address that JAX will use:
JAX aborts a process that it cannot join to the others.
"""

import contextlib
import errno
import socket
import sys
import time

import jax

ME = "jaxlstm"


class ClusterError(ValueError):
    """A cluster that cannot be joined, or devices that are not there; the message says which."""


def join(coordinator: str | None, processes: int | None, process: int | None, wait: int) -> None:
    """Joins the cluster that the arguments name, or else the one that JAX detects."""
    if coordinator is None or processes is None or process is None:
        try:
            jax.distributed.initialize(initialization_timeout=wait)
        except ValueError:  # there is none
            pass
        except jax.errors.JaxRuntimeError as e:
            raise ClusterError(f"the cluster that JAX detects cannot be joined: {e}") from None
        except Exception as e:
            print(f"runs alone, in no cluster: {type(e).__name__}: {e}", file=sys.stderr)
        return
    print(f"process {process} of {processes} waits for all at {coordinator}", file=sys.stderr)
    meet(coordinator, processes, process, wait)
    try:
        jax.distributed.initialize(coordinator, processes, process, initialization_timeout=wait)
    except Exception as e:
        raise ClusterError(f"the cluster at {coordinator} cannot be joined: {e}") from None


def meet(address: str, processes: int, process: int, wait: float) -> None:
    """Returns once all processes are there; raises in all that are if one is missing or wrong."""
    host, _, port = address.rpartition(":")
    ends = time.monotonic() + wait
    if process == 0:
        _gather(int(port), processes, ends)
        return
    problem: OSError | str = "no answer"
    while (left := ends - time.monotonic()) > 0:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), left) as s:
                s.settimeout(left + 5)  # process 0 may have begun to wait a little later
                s.sendall(f"{ME} {process} {processes}\n".encode())
                found = s.makefile(errors="replace").readline().strip()
            if found == f"{ME} all":
                return
            if found:
                other = f"something else than process 0 answers at {address}"
                raise ClusterError(found.removeprefix(f"{ME} ") if found.startswith(ME) else other)
        except OSError as e:
            problem = e
        time.sleep(0.1)
    raise ClusterError(
        f"process 0 was not reached at {address} within {wait:g} s ({problem}). It must run on "
        "that host, with the same --coordinator and --processes."
    )


def _gather(port: int, processes: int, ends: float) -> None:
    """Process 0 hears of all others, and then tells them what it found."""
    try:
        server = _listening(port)
    except OSError as e:
        raise ClusterError(
            f"process 0 cannot listen at port {port}: {e.strerror or e}. Name a port that is free "
            "on its host, in --coordinator of every process."
        ) from None
    here: dict[int, socket.socket] = {}
    others: list[socket.socket] = []
    failure = ""
    with server:
        while not failure and len(here) < processes - 1:
            server.settimeout(max(ends - time.monotonic(), 0.01))
            try:
                peer, _ = server.accept()
            except TimeoutError:
                came = sorted([0, *here])
                failure = (
                    f"of {processes} processes only {came} came; start the others, or wait longer."
                )
                break
            others.append(peer)
            number, count = _hello(peer)
            if number is None:
                continue
            if count != processes:
                failure = (
                    f"process {number} has --processes {count}, and process 0 has {processes}."
                )
            elif number in here or number == 0:
                failure = f"two processes have --process {number}."
            here[number] = peer
    for peer in others:  # the port is free now, for JAX
        with peer, contextlib.suppress(OSError):  # it may be gone, or was none of ours
            peer.sendall(f"{ME} {failure or 'all'}\n".encode())
    if failure:
        raise ClusterError(failure)


def _listening(port: int) -> socket.socket:
    """Of both kinds of address, or of one on a host without the other."""
    try:
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    except (OSError, ValueError) as e:
        if getattr(e, "errno", None) in (errno.EADDRINUSE, errno.EACCES):
            raise
        return socket.create_server(("", port))


def _hello(peer: socket.socket) -> tuple[int | None, int]:
    """The number of a process and how many it knows of; None for anything else."""
    peer.settimeout(5)
    try:
        me, number, count = peer.makefile(errors="replace").readline(100).split()
        return (int(number) if me == ME else None), int(count)
    except (OSError, ValueError):
        return None, 0
