"""Ballot."""

from pages.components.frame import page_frame

with page_frame("Ballot"):
    pass
