"""Libraries that only some conversions need."""

import importlib
from typing import Any


def extra(module: str, name: str) -> Any:
    """The module, or one error that names the extra it comes with."""
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise ImportError(
            f"this needs `{module.split('.')[0]}`, which is missing: pip install 'jaxlstm[{name}]'",
            name=module,
        ) from e
