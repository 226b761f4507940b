"""Buttons that save a file."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from typing import Any, BinaryIO

import streamlit as st


def draw_download(
    label: str,
    data: str | bytes | Callable[[], str | bytes | BinaryIO],
    file_name: str,
    *,
    key: str,
    icon: str | None = "download",
    **more: Any,
) -> None:
    """Draw a button that saves a file without drawing the page again; a function makes its contents at the click."""
    st.download_button(
        label,
        data,
        file_name,
        mime=mimetypes.guess_type(file_name)[0],
        key=key,
        icon=None if icon is None else f":material/{icon}:",
        on_click="ignore",
        **more,
    )
