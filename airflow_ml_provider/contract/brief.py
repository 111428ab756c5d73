"""Texts from elsewhere, cut to a length that documents travel well with."""

from __future__ import annotations


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and "..." where it is longer than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
