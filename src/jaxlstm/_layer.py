"""A layer: the weights of one cell, and their products with inputs and states."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, PyTree

from ._control import of_rows as of_rows, on_mesh, over_rows, sharding, shared, vary_alike
from ._dtypes import wide, widened
from ._node import Recur, State, StepNode
from ._options import setting
from ._summary import layer_repr
from ._types import DType, T, Tree

if TYPE_CHECKING:
    from ._cell import Cell


class CellNode(StepNode, abstract=True):
    """A node that is the weights of one cell.

    It has the fields of `Layer`; subclasses differ in `product`.
    """

    __slots__ = ()
    roles: ClassVar[Mapping[str, str]] = {
        "w": "input", "r": "recurrent", "b": "bias", "recurrent_bias": "bias",
    }  # fmt: skip
    operands: ClassVar[DType | None] = (
        None  # dtype of the operands of products if weights were widened; see `for_a_loop`
    )
    cell: "Cell"
    w: Array
    r: Array | None
    b: Array | None
    recurrent_bias: Array | None
    weights: dict[str, Array] | None

    if TYPE_CHECKING:  # of a NamedTuple
        _fields: ClassVar[tuple[str, ...]]

        def __iter__(self) -> Iterator[PyTree]: ...

        def _replace(self, **fields: PyTree) -> Self: ...

    @property
    def gates(self) -> str:
        return self.cell.gates

    @property
    def input_size(self) -> int:
        return self.w.shape[-3]

    def __repr__(self) -> str:
        return layer_repr(self)

    def initial_state(self, batch: Sequence[int]) -> State:
        """Zeros, of float32 where the weights are narrower."""
        return self.cell.zeros(batch, self.w.shape[-1], self.w.dtype)

    def project(self, xs: Array, gates: str | None = None) -> Array:
        """`u = x w + b (*time, gates, hidden)`."""
        names, gates = self.cell.gates, gates or self.cell.gates
        return self.product(xs, take(self.w, names, gates), take_some(self.b, names, gates))

    def recur(self, h: Array, gates: str) -> Array:
        """`v = h r`, and its bias."""
        if self.r is None:
            return super().recur(h, gates)
        names = self.cell.recurrent
        return self.product(
            h, take(self.r, names, gates), take_some(self.recurrent_bias, names, gates)
        )

    def product(self, x: Array, w: Array, b: Array | None) -> Array:
        """The product of an input or a state with a weight, plus a bias."""
        raise NotImplementedError

    def step(self, s: State, u: Array, recur: Recur, noise: PyTree) -> State:
        return self.cell.step(self, s, u, recur)


class _Layer(NamedTuple):
    cell: "Cell"
    w: Float[Array, "*ens input gates hidden"]
    r: Float[Array, "*ens output recurrent hidden"] | None
    b: Float[Array, "*ens gates hidden"] | None
    recurrent_bias: Float[Array, "*ens recurrent hidden"] | None = None
    weights: dict[str, Array] | None = None


class Layer(_Layer, CellNode):
    """The weights of one recurrent layer, and its cell."""

    __slots__ = ()
    __repr__ = CellNode.__repr__

    def product(self, x: Array, w: Array, b: Array | None) -> Array:
        return product(x, w, b, self.operands)


def for_a_loop(node: Tree) -> tuple[list[PyTree], Callable[[list[PyTree]], Tree]]:
    """Widened weights for a loop to close over, and a function that rebuilds the node inside it.

    The gradient of a closed-over value is summed step by step in its own dtype: in 16 bits the
    sum stops growing once it is some hundred times as large as its terms.  In a layer only the
    products cast the weights back, so that the terms are not rounded either.
    """
    layer = lambda n: isinstance(n, CellNode)
    nodes, tree = jax.tree.flatten(node, is_leaf=layer)
    wides = [_wide_layer(n) if layer(n) else widened(n) for n in nodes]
    cast = lambda a, like: a if layer(a) or a.dtype == like.dtype else a.astype(like.dtype)
    return wides, lambda weights: tree.unflatten(map(cast, weights, nodes))


def for_loops(node: Tree) -> Tree:
    """The node with the weights of its layers widened."""
    weights, back = for_a_loop(node)
    return back(weights)


def for_rows(node: Tree, xs: Array, space: int) -> Tree:
    """Layers with a copy for each row of `xs` of the weights that equations take row by row.

    Their gradients are summed over the rows once, after a loop over time, not in each step: where
    the rows are shared out over devices, that sum is a collective.
    """
    batch = xs.ndim - 2 - space
    rows, spec = xs.shape[1 : 1 + batch], shared(xs)[1 : 1 + batch]

    def copied(a: Array, before: int) -> Array:
        first, rest = a.shape[:before], (*[1] * space, *a.shape[before:])
        one = a.reshape(*first, *[1] * batch, *rest)
        # Sharded as it is made: the transpose of `reshard` would gather the rows to sum them.
        to = sharding(xs, *[None] * before, *spec) if on_mesh(xs) else None
        copies = jax.lax.broadcast_in_dim(
            one, (*first, *rows, *rest), tuple(range(one.ndim)), out_sharding=to
        )
        return vary_alike(copies, xs)

    def each(layer: PyTree) -> PyTree:
        if not (isinstance(layer, CellNode) and layer.weights):
            return layer
        of_rows = layer.cell.row_weights()
        weights = {
            name: copied(a, of_rows[name][0]) if name in of_rows else a
            for name, a in layer.weights.items()
        }
        return layer._replace(weights=weights)

    return jax.tree.map(each, node, is_leaf=lambda n: isinstance(n, CellNode))


def are_of_rows(node: PyTree) -> list[bool]:
    """Of every leaf of a node, whether it is a weight that equations take row by row."""

    def each(layer: PyTree) -> PyTree:
        if not isinstance(layer, CellNode):
            return False
        none = jax.tree.map(lambda _: False, layer)
        own = {name: name in layer.cell.row_weights() for name in layer.weights or ()}
        return none._replace(weights=own or none.weights)

    return jax.tree.leaves(jax.tree.map(each, node, is_leaf=lambda n: isinstance(n, CellNode)))


def _wide_layer(layer: CellNode) -> CellNode:
    if layer.w.dtype == wide(layer.w.dtype):
        return layer
    return _with_operands(type(layer), layer.w.dtype)(*jax.tree.map(widened, tuple(layer)))


@functools.cache
def _with_operands(cls: type[T], dtype: DType) -> type[T]:
    """The subclass whose products cast their operands to a dtype narrower than the weights."""
    return type(cls.__name__, (cls,), {"operands": dtype, "__slots__": ()})  # type: ignore[return-value]


def gates_first(a: Array) -> Array:
    """Moves the gate axis first, as the equations take it: `i, f, g, o = u`."""
    return jnp.moveaxis(a, -2, 0)


def product(x: Array, w: Array, b: Array | None, operands: DType | None = None) -> Array:
    """`x w + b` over the last axis, never narrower than float32, as one flat matrix product.

    If `w` has fewer rows than `x` has features, it is block diagonal: the block of each head maps
    its slice of `x` to its slice of the result.
    """
    n, g, h = w.shape
    heads = x.shape[-1] // n if n else 1
    if heads > 1:
        slices = x.reshape(*x.shape[:-1], heads, n)
        blocks = functools.partial(jnp.einsum, "...kn,ngkh->...gkh")
        y = bilinear(blocks, slices, w.reshape(n, g, heads, h // heads), operands)
    else:
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) if _joined(x) else x
        y = bilinear(jnp.matmul, rows, w.reshape(n, g * h), operands)
    return biased(y.reshape(*x.shape[:-1], g, h), b)


def biased(y: Array, b: Array | None) -> Array:
    """`y + b`, in the dtype of `y`."""
    return y if b is None else y + over_rows(b.astype(y.dtype), y)


def bilinear(f: Callable[..., Array], x: Array, w: Array, operands: DType | None = None) -> Array:
    """The product `f(x, w)`, accumulated in float32 at least.

    With 16-bit weights it takes 16-bit operands, rounding the state, and returns float32;
    `operands` is their dtype if the weights were widened.  Gradients are float32 too: rounding
    the cotangents of a state at each step would flush those of a float16 network below 6e-8.
    """
    dtype = operands or w.dtype
    if dtype == wide(dtype):
        return f(x, w)
    return _narrow(f, setting("jax_default_matmul_precision"), dtype, x, w)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _narrow(f: Callable[..., Array], precision: object, dtype: DType, x: Array, w: Array) -> Array:
    return f(x.astype(dtype), w.astype(dtype), preferred_element_type=wide(dtype))


def _tangent(
    f: Callable[..., Array],
    precision: object,
    dtype: DType,
    primals: tuple[Array, Array],
    tangents: tuple[PyTree, PyTree],  # arrays, or `SymbolicZero`
) -> tuple[Array, Array]:
    (x, w), (dx, dw) = primals, tangents
    y = _narrow(f, precision, dtype, x, w)
    pairs = [(dx, w.astype(dtype)), (x.astype(dtype), dw)]
    pairs = [p for p in pairs if not any(isinstance(a, SymbolicZero) for a in p)]
    # Pass precision explicitly: the context may have exited when this is traced.
    with jax.default_matmul_precision(precision):
        terms = [f(*map(widened, pair)) for pair in pairs]
    return y, functools.reduce(jnp.add, terms) if terms else jnp.zeros_like(y)


_narrow.defjvp(_tangent, symbolic_zeros=True)


def _joined(x: Array) -> bool:
    """Whether to flatten time and batch into one axis for a product.

    The gradient of `w` sums over both, and XLA:CPU copies the operands of a sum over two axes
    first, which takes an eighth of a training step.  But flattening a sharded axis with an
    unsharded one would gather it on every device.
    """
    alone = lambda: jax.default_backend() == "cpu" and jax.device_count() == 1
    return x.ndim > 2 and alone() and not any(shared(x))


def take_some(a: Array | None, names: str, gates: str) -> Array | None:
    """`take`, where there may be no array, or no gates."""
    return None if a is None or not gates else take(a, names, gates)


def take(a: Array, names: str, gates: str) -> Array:
    """The rows (axis -2) of some gates of an array with named rows."""
    at = [names.index(gate) for gate in gates]
    if at == [*range(len(names))]:
        return a
    if at == [*range(at[0], at[-1] + 1)]:
        return a[..., at[0] : at[-1] + 1, :]
    return jnp.stack([a[..., i, :] for i in at], -2)
