"""The version of the package that is installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mn-lightning")
except PackageNotFoundError:  # a copy of the source that nobody installed
    __version__ = "unknown"
