"""Shared code of the numbered stages ("clinical representations")."""

__version__ = "0.1.0"
