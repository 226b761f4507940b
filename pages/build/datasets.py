"""Datasets: the list, one dataset (`?dataset=`), the import (`?import=1`)."""

from __future__ import annotations

import streamlit as st

from backend.services.context import Context
from backend.services.data.datasets import get_dataset, list_datasets
from backend.services.data.imports import version_of_job
from backend.services.data.views import DatasetView
from pages.components import routes
from pages.components.data.dataset import draw_dataset
from pages.components.data.import_form import draw_import
from pages.components.frame import empty_state, live_part, page_frame, plain
from pages.components.job_progress import status_badge
from pages.components.links import back_link, row_link
from pages.components.tables import WidgetTable
from pages.components.words import size, when

TABLE = WidgetTable("datasets", {"Name": 2.6, "Kind": 1.7, "Contents": 2.4, "Status": 1.7})


def draw_dataset_row(dataset: DatasetView) -> None:
    """Draw one row of the list."""
    version = dataset.newest
    columns = TABLE.row(dataset.id)
    with columns[0]:
        row_link(dataset.name, page=routes.DATASETS, query={"dataset": dataset.id}, key=f"open_{dataset.id}")
    with columns[1]:
        st.badge(dataset.kind, color="gray")
    if version is None:
        columns[2].caption("no version")
        return
    facts = [version.amount, size(version.bytes)] if version.is_ready else []
    columns[2].caption(" · ".join([*facts, when(dataset.versions[0].created_at)]))
    with columns[3]:
        newest = dataset.versions[0]
        status_badge(newest.status, ready=f"version {newest.number}")


def draw_dataset_list(ctx: Context) -> None:
    """Draw the datasets with a search and a filter, refreshed every two seconds during an import."""
    with st.container(horizontal=True, vertical_alignment="center"):
        text = st.text_input(
            "Search", key="find", bind="query-params", placeholder="Search", label_visibility="collapsed", width=280
        )
        archived = st.toggle("Archived", key="archived", bind="query-params")
        st.space("stretch")
        if st.button("Import a dataset", type="primary", icon=":material/upload:", key="datasets_import"):
            st.switch_page(routes.DATASETS, query_params={"import": "1"})
    active = any(v.is_importing for d in list_datasets(ctx, archived=archived) for v in d.versions)

    @live_part(2 if active else None)
    def rows() -> None:
        datasets = [
            d for d in list_datasets(ctx, archived=archived) if text.lower() in f"{d.name} {d.kind} {d.notes}".lower()
        ]
        if active and not any(v.is_importing for d in datasets for v in d.versions):
            st.rerun()
        if not datasets:
            empty_state(
                f"Nothing here matches “{plain(text)}”."
                if text
                else "No datasets yet. Import a text file, a table, or a dataset from the Hub."
            )
            return
        with TABLE.frame():
            for dataset in datasets[:200]:
                draw_dataset_row(dataset)

    rows()


def draw_import_end(ctx: Context, job_id: str) -> None:
    """Draw a note if the import that led here added no new version."""
    if not job_id:
        return
    version = version_of_job(ctx, job_id)
    if version.reused:
        st.info(
            f"Same content as version {version.number}, so no new version was created.", icon=":material/content_copy:"
        )


with page_frame(
    "Datasets", "Training, validation and benchmark data in immutable versions.", objects=["dataset", "import"]
) as (ctx, person):
    if "import" in st.query_params:
        back_link("All datasets", page=routes.DATASETS, key="datasets_back")
        version = draw_import(ctx, person)
        if version is not None:
            st.switch_page(routes.DATASETS, query_params={"dataset": version.dataset_id, "job": version.job_id or ""})
    elif "dataset" in st.query_params:
        back_link("All datasets", page=routes.DATASETS, key="datasets_back")
        dataset = get_dataset(ctx, st.query_params["dataset"])
        draw_import_end(ctx, st.query_params.get("job", ""))
        draw_dataset(ctx, person, dataset)
    else:
        draw_dataset_list(ctx)
