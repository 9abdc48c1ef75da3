"""Watch and steer the fit of a differentiable model from a notebook."""

from importlib.metadata import version as _version

__version__ = _version("fitkit")

del _version
