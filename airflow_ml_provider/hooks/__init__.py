"""Connections to the services that steps use."""
