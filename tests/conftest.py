"""Every test runs in float64 unless it says otherwise, with strict promotion and checked shapes."""

import os

# Two host devices, so that `shard_map` has something to shard over.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=2"
)

import jax
import jaxtyping
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

with install_import_hook("jaxlstm", "beartype.beartype"):
    import jaxlstm  # noqa: F401

settings.register_profile("jaxlstm", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("jaxlstm")


@pytest.fixture(autouse=True)
def _restore_config():
    """A test that changes a global flag does not change the next test."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def as_users_call_it():
    """Without the shape checks of the tests, which would answer before the door does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
