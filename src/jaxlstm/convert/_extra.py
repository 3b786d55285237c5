"""Libraries that only some conversions need."""

import importlib
from types import ModuleType


def extra(module: str, name: str) -> ModuleType:
    """The module, or one error that names the extra it comes with."""
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise ImportError(
            f"this needs `{module.split('.')[0]}`, which is missing: pip install 'jaxlstm[{name}]'",
            name=module,
        ) from e
