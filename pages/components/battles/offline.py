"""Benchmarks beside the votes: which of them orders the contestants as the raters do."""

from __future__ import annotations

import streamlit as st

from backend.domain.battles.agreement import MIN_CONTESTANTS
from backend.domain.evaluation.score_text import score_label
from backend.services.battles.views import CampaignView
from backend.services.context import Context
from backend.services.offline_agreement import compare_benchmarks
from pages.components.frame import plain
from pages.components.tables import draw_table


def draw_offline(ctx: Context, campaign: CampaignView) -> None:
    """Draw rank correlation and the share of pairs ordered alike for every benchmark of the contestants."""
    with st.expander("Benchmarks beside the votes", icon=":material/compare_arrows:", key="offline"):
        compared = compare_benchmarks(ctx, campaign.id)
        if not compared:
            st.caption(
                "No two contestants were evaluated on the same benchmark. Evaluate them to see which benchmark predicts"
                " the votes."
            )
            return
        draw_table(
            [
                {
                    "Benchmark": row.benchmark,
                    "Metric": score_label(row.metric),
                    "Contestants": row.contestants,
                    "Rank correlation": (
                        f"{row.tau:+.2f} [{row.tau_low:+.2f}, {row.tau_high:+.2f}]" if row.tau is not None else None
                    ),
                    "Pairs ordered alike": f"{row.alike} of {row.pairs}",
                }
                for row in compared
            ],
            key="offline_table",
            alt="Benchmarks beside the votes",
        )
        if any(not row.is_enough for row in compared):
            st.caption(
                f"Fewer than {MIN_CONTESTANTS} contestants with scores are too few to tell whether a benchmark predicts"
                " the votes."
            )
        best = compared[0]
        if best.tau is not None:
            st.caption(plain(best.sentence))
        st.caption("Kendall's tau-b with a 95 % interval from resampled contestants.")
