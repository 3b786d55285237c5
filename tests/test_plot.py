"""What the pictures show is what was given: lines, labels, scales; wrong arguments say so."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from networks import H, T, inputs, network

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")
plot = pytest.importorskip("jaxlstm.plot")
PathCollection = matplotlib.collections.PathCollection

XS = inputs()
LSTM = network(jaxlstm.lstm)
SEEN = jaxlstm.record(LSTM, XS)[2]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_gates():
    ax = plt.subplots()[1]
    assert plot.gates(SEEN, ax, row=1) is ax
    assert labels(ax) == ["input $i$", "forget $f$", "candidate $g$", "output $o$"]
    for line, values in zip(ax.lines, SEEN.gates.values()):
        np.testing.assert_allclose(line.get_ydata(), values[:, 1].mean(-1))
    assert ax.get_xlabel() == "time (steps)"
    looks = {(line.get_color(), line.get_linestyle()) for line in ax.lines}
    assert len(looks) == 4


def test_heatmap():
    ax = plot.heatmap(SEEN.states.c, row=2)
    np.testing.assert_allclose(ax.images[0].get_array(), SEEN.states.c[:, 2].T)
    assert [a.get_ylabel() for a in ax.figure.axes] == ["unit", "memory cell $c$"]


def test_heatmaps_of_one_scale():
    """From -limit to limit, zero in the middle; what lies beyond is marked at the scale's end."""
    values = jnp.asarray([[0.5, -1.0], [0.0, 1.5]])
    for limit, extend in ((2.0, "neither"), (1.2, "max"), (0.9, "both")):
        (image,) = plot.heatmap(values, limit=limit).images
        assert image.get_clim() == (-limit, limit)
        assert image.colorbar.extend == extend
        middle = image.to_rgba(np.asarray(0.0))
        assert min(middle[:3]) > 0.9  # white, whatever the values
    assert plot.heatmap(-values, limit=1.2).images[0].colorbar.extend == "min"
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"`limit` must be above zero.*got"):
            plot.heatmap(values, limit=limit)


def test_flow_is_drawn_on_a_log_scale_and_side_by_side():
    norms = jaxlstm.gradient_flow(LSTM, XS, lambda ys: ys[-1].sum())
    ax = plot.flow(norms, row=0, label="LSTM")
    drawn = ax.lines[1].get_ydata()
    np.testing.assert_allclose(drawn[:-1], norms.c[:-1, 0])
    assert np.isnan(drawn[-1])  # nothing follows from the last memory cell
    assert ax.get_yscale() == "log"
    plot.flow(norms, ax, row=1, label="again")
    assert len({line.get_color() for line in ax.lines}) == len(ax.lines) == 4
    assert labels(ax)[0] == r"LSTM $\partial L/\partial h_t$"


def test_saturation_counts_both_ends():
    wide = jnp.asarray([0.0, 0.05, 0.5, 0.95])[:, None]
    signed = jnp.asarray([-1.0, -0.85, 0.0, 0.9])[:, None]
    seen = SEEN._replace(gates={"f": wide, "g": signed})
    ax = plot.saturation(seen)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [0.5, 0.5, 0.25, 0.25])


def test_compare_draws_mean_and_range():
    ax = plot.compare({"lstm": [[3, 2, 1], [1, 2, 3]], "gru": [2, 2, 2]}, ylabel="loss (nats)")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2, 2, 2])
    assert len(ax.collections) == 1
    assert labels(ax) == ["lstm", "gru"]
    ax = plot.compare({"lstm": [3, 2, 1]}, steps=[10, 20, 30])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [10, 20, 30])


def test_what_the_mask_leaves_out_is_not_drawn_and_not_counted():
    mask = jaxlstm.lengths_to_mask([T, 4, 1], T)
    seen = jaxlstm.record(LSTM, XS, mask=mask)[2]
    ax = plot.gates(seen, row=1, mask=mask)
    drawn = ax.lines[1].get_ydata()
    np.testing.assert_allclose(drawn[:4], seen.gates["f"][:4, 1].mean(-1))
    assert np.isnan(drawn[4:]).all()
    shut = np.full((T, 3, H), 0.5) * np.asarray(mask)[..., None]
    ax = plot.saturation(seen._replace(gates={"f": shut}), mask=mask)
    assert [bar.get_height() for bar in ax.patches] == [0, 0]


def test_gates_of_any_shape_are_drawn_as_units():
    seen = jaxlstm.record(network(jaxlstm.cells.mlstm), XS)[2]
    assert len(plot.gates(seen, row=0).lines) == len(seen.gates)


def test_one_unit_and_one_step():
    params = jaxlstm.init(jax.random.key(0), jaxlstm.gru, 4, 1)
    seen = jaxlstm.record(params, XS[:1, 0])[2]
    dots = [c for c in plot.gates(seen).collections if isinstance(c, PathCollection)]
    np.testing.assert_allclose(dots[0].get_offsets(), [[0, seen.gates["r"][0, 0]]])
    assert plot.heatmap(seen.states.h).images[0].get_array().shape == (1, 1)
    assert len(plot.saturation(seen).patches) == 6


def test_a_picture_is_of_one_layer():
    params = network(jaxlstm.lstm, "bidirectional")
    seen = jaxlstm.record(params, XS)[2]
    norms = jaxlstm.gradient_flow(params, XS, lambda ys: ys[-1].sum())
    for draw, given in (
        (plot.gates, seen),
        (plot.saturation, seen),
        (plot.flow, norms),
        (plot.flow, norms.layers[0]),
    ):
        with pytest.raises(TypeError, match=r"one layer; got a (Stack|Bidirectional)"):
            draw(given)


def test_what_cannot_be_drawn_says_so():
    with pytest.raises(ValueError, match="row=0"):
        plot.heatmap(SEEN.states.c)
    with pytest.raises(ValueError, match=r"jaxlstm\.tag"):
        plot.gates(SEEN._replace(gates={}))
    with pytest.raises(ValueError, match="one step of time"):
        plot.heatmap(SEEN.states.c[:0], row=0)
    with pytest.raises(TypeError, match="outside of `jit`"):
        jax.jit(lambda c: plot.heatmap(c))(SEEN.states.c)
    assert SEEN.states.c.shape[::2] == (T, H)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delitem(sys.modules, "jaxlstm.plot")
    with pytest.raises(ImportError, match=r"jaxlstm\[plot\]"):
        import jaxlstm.plot  # noqa: F401
