"""Battles."""

from pages.components.frame import page_frame

with page_frame("Battles"):
    pass
