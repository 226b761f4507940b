"""Boxes of the lineage lead to the page of their object."""

from __future__ import annotations

import pytest

from backend.services.lineage import LineageNode
from pages.components import routes
from pages.components.serving.lineage import page_of


@pytest.mark.parametrize(
    ("kind", "refers_to", "page", "query"),
    [
        ("alias", "chat@production", routes.ENDPOINTS, {"name": "chat@production"}),
        ("endpoint", "chat", routes.ENDPOINTS, {"name": "chat"}),
        ("dataset", "d1@3", routes.DATASETS, {"dataset": "d1", "version": "3"}),
    ],
)
def test_a_box_opens_its_object(kind: str, refers_to: str, page: str, query: dict[str, str]) -> None:
    assert page_of(LineageNode("x", kind, "x", refers_to=refers_to)) == (page, query)


def test_a_box_without_an_object_is_no_link() -> None:
    assert page_of(LineageNode("x", "alias", "x")) is None
