"""Widgets that show and steer a fit."""

from fitkit._dashboard._dashboard import Dashboard as Dashboard
