"""Widgets that show and steer a fit."""

from ._dashboard import Dashboard as Dashboard
