"""Names of a package that are imported when they are first used."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(package: str, names: Mapping[str, str], packages: Sequence[str] = ()) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package (PEP 562).

    Args:
        package: its name.
        names: name to the module inside the package that defines it.
        packages: packages inside it that can be named without an import of their own.

    Returns:
        A function that imports a name, and keeps it in the package, so that it is called once for each.

    Examples:
        >>> get = lazy_names("mn_lightning", {"config_names": "configs"})
        >>> get("config_names").__module__
        'mn_lightning.configs'
    """

    def get(name: str) -> Any:
        if name in packages:
            return import_module(f"{package}.{name}")
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{names[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get
