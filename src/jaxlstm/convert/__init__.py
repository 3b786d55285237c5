"""Weights of other frameworks, ONNX models, and files of the library's own format.

Nothing here imports another framework: weights are passed and returned as plain mappings of
names to arrays, in the form in which that framework stores them.
"""

from ._files.file import load as load, save as save
from ._files.header import FileError as FileError
from ._files.paths import from_dict as from_dict, to_dict as to_dict
from ._frameworks.equinox import from_equinox as from_equinox, to_equinox as to_equinox
from ._frameworks.flax import from_flax as from_flax, to_flax as to_flax
from ._frameworks.haiku import from_haiku as from_haiku, to_haiku as to_haiku
from ._frameworks.keras import from_keras as from_keras, to_keras as to_keras
from ._frameworks.torch import from_torch as from_torch, to_torch as to_torch
from ._onnx.read import from_onnx as from_onnx
from ._onnx.write import to_onnx as to_onnx
