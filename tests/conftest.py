"""Every test runs in float64 unless it says otherwise, with strict promotion and checked shapes."""

import collections
import datetime
import functools
import gc
import os
import tempfile
import zlib

# Two host devices, so that `shard_map` has something to shard over.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=2"
)

# No kernel is compiled by default, of which every cell would have one: tests of it say so.
os.environ.setdefault("JAXLSTM_KERNEL", "off")

import jax
import jaxtyping
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A program that one test compiled is loaded in the next, from a folder of this process alone.
PROGRAMS = tempfile.TemporaryDirectory(prefix="jaxlstm-tests-", ignore_cleanup_errors=True)
jax.config.update("jax_compilation_cache_dir", PROGRAMS.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def outermost(function=None, *, check=jaxtyping.jaxtyped, **options):
    """`jaxtyped`, but not of local functions: wrapping each anew takes half the time of tracing."""
    if function is None:
        return functools.partial(outermost, check=check, **options)
    if "<locals>" in getattr(function, "__qualname__", ""):
        return function
    return check(function, **options)


jaxtyping.jaxtyped = outermost  # which is what the hook writes above each function
with install_import_hook("jaxlstm", "beartype.beartype"):
    import jaxlstm  # noqa: F401

settings.register_profile("jaxlstm", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("jaxlstm")


def pytest_addoption(parser):
    group = parser.getgroup("jaxlstm")
    group.addoption("--tenth", metavar="N", help="of all tests one tenth: 0 to 9, or `today`")
    group.addoption("--cpu", action="store_true", help="CPU seconds by module and by test")
    group.addoption("--minutes", type=int, default=2, help="how long the random sweep runs")
    group.addoption("--case", type=int, default=0, help="the number of one random network")


def pytest_configure(config):
    # Workers are given what stands here: the day is the same for all of them.
    if not hasattr(config.option, "day"):
        config.option.day = datetime.datetime.now(datetime.UTC).toordinal()
    if (tenth := config.getoption("tenth")) is not None:
        config.option.tenth = str(config.option.day % 10) if tenth == "today" else tenth
        if config.option.tenth not in list("0123456789"):
            raise pytest.UsageError(f"--tenth must be 0 to 9 or `today`; got {tenth!r}.")
    if config.getoption("cpu"):
        config.pluginmanager.register(Spent())


def pytest_report_header(config):
    if (tenth := config.getoption("tenth")) is not None:
        return f"a tenth of the tests: the same again with TENTH={tenth} or --tenth {tenth}"


def pytest_collection_modifyitems(config, items):
    """Keeps the tests of one tenth, chosen by a hash of the name."""
    if (tenth := config.getoption("tenth")) is None:
        return
    chosen = lambda item: zlib.crc32(item.nodeid.encode()) % 10 == int(tenth)
    config.hook.pytest_deselected(items=[item for item in items if not chosen(item)])
    items[:] = [item for item in items if chosen(item)]


def pytest_collection_finish():
    """What was imported until here lives until the end: the collector need not look at it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.fixture(scope="session")
def today(request):
    """The number of the day."""
    return request.config.option.day


class Spent:
    """CPU seconds by test, as reports carry them from the workers."""

    def __init__(self):
        self.tests = collections.Counter()

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            self.tests[report.nodeid] += dict(report.user_properties).get("cpu", 0.0)

    def pytest_terminal_summary(self, terminalreporter):
        modules, functions = collections.Counter(), collections.Counter()
        for name, seconds in self.tests.items():
            modules[name.split("::")[0]] += seconds
            functions[name.split("[")[0]] += seconds
        write = terminalreporter.write_line
        terminalreporter.section(f"{self.tests.total() / 60:.1f} minutes of CPU")
        for name, seconds in [*modules.most_common(), *functions.most_common(40)]:
            write(f"{seconds:8.1f} s  {name}")


@pytest.fixture(autouse=True)
def _cpu(request, record_property):
    """What a test takes of the CPU, its processes among it."""
    before = sum(os.times()[:4])
    yield
    record_property("cpu", sum(os.times()[:4]) - before)


@pytest.fixture(autouse=True)
def _restore_config():
    """A test that changes a global flag does not change the next test."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module")
def kernel_by_default():
    """As users have it: `implementation=None` takes the kernel for the CPU where it can."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXLSTM_KERNEL", "on")
        yield
    jax.clear_caches()


@pytest.fixture
def as_users_call_it():
    """Without the shape checks of the tests, whose errors would come before the library's own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


DONE = collections.Counter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Frees what JAX keeps of every program that it compiled, up to 15 MiB a test.

    It takes 0.3 seconds, more than most modules of a few tests.
    """
    result = yield
    DONE["tests"] += 1
    if DONE["tests"] % 128 == 0:
        jax.clear_caches()
    return result
