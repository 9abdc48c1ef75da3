"""Widgets that show and steer a fit."""

from fitkit._dashboard.dashboard import Dashboard as Dashboard
