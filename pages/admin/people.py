"""People and keys."""

from pages.components.frame import page_frame

with page_frame("People and keys"):
    pass
