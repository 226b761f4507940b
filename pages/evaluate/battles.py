"""Battles: campaigns of blind votes between checkpoints. The list, and with `?campaign=` one campaign."""

from __future__ import annotations

from functools import partial

import streamlit as st

from backend.domain.jobs.states import Status
from backend.domain.wording import plural
from backend.services.battles.campaigns import add_contestant, close_campaign
from backend.services.battles.generation import retry_generation
from backend.services.battles.grades import grade_board
from backend.services.battles.quality import count_excluded_votes
from backend.services.battles.rematches import enter_new_checkpoint, rematch_ready
from backend.services.battles.standings import Standings, export_votes_csv, standings
from backend.services.battles.views import CampaignView, get_campaign, list_campaigns, list_rematches
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context, Person
from pages.components import routes
from pages.components.battles.answers import draw_answers
from pages.components.battles.board import draw_board, draw_rating
from pages.components.battles.campaign_form import draw_campaign_form
from pages.components.battles.frozen import draw_frozen_board
from pages.components.battles.grades import draw_grades
from pages.components.battles.offline import draw_offline
from pages.components.battles.promotion import draw_promotion
from pages.components.battles.raters import draw_raters
from pages.components.battles.standings import draw_headline
from pages.components.battles.training_plan import draw_training_plan
from pages.components.battles.vote_import import draw_vote_import
from pages.components.checkpoints.offers import label_usable_first
from pages.components.choices import choose_from
from pages.components.confirm import close_menu, menu_key
from pages.components.downloads import draw_download
from pages.components.frame import empty_state, live_part, object_heading, page_frame, plain, rerun_after, show_problem
from pages.components.job_progress import draw_waiting, status_badge
from pages.components.links import back_link, page_link, row_link
from pages.components.words import when


def draw_campaign_list(ctx: Context, person: Person) -> None:
    """Draw every campaign, newest first, and the form for a new one."""
    campaigns, wants_import = list_campaigns(ctx), st.query_params.get("import") == "votes"
    if not campaigns:
        empty_state(
            "**Which checkpoint is better?** Give two or more the same prompts, collect blind votes, and get "
            "ratings with intervals. The votes can then train the next checkpoint."
        )
    if person.may_build:
        with st.expander(
            "New campaign",
            icon=":material/add:",
            expanded=(not campaigns or "contestants" in st.query_params) and not wants_import,
            key="new_campaign",
        ):
            draw_campaign_form(ctx, person)
        with st.expander("Import votes", icon=":material/upload:", expanded=wants_import, key="import_votes"):
            draw_vote_import(ctx, person)
    for campaign in campaigns:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            row_link(campaign.name, page=routes.BATTLES, query={"campaign": campaign.id}, key=f"open_{campaign.id}")
            draw_state(campaign)
            st.space("stretch")
            st.caption(
                f"{plural(len(campaign.contestants), 'contestant')} · {plural(campaign.num_prompts, 'prompt')} ·"
                f" {plural(campaign.num_votes, 'vote')} by {plural(campaign.num_raters, 'rater')} ·"
                f" {when(campaign.created_at)}",
                width="content",
            )


def draw_state(campaign: CampaignView) -> None:
    """Draw a campaign's state as a badge."""
    if campaign.is_imported:
        st.badge("imported", color="gray", icon=":material/upload:")
    elif campaign.closed_at is not None:
        st.badge("closed", color="gray", icon=":material/lock:")
    elif campaign.is_standing:
        st.badge("from the playground", color="gray", icon=":material/chat:")
    elif len(campaign.contestants) < 2:
        st.badge("waiting for training run", color="orange", icon=":material/hourglass_top:")
    elif campaign.is_writing:
        st.badge("generating completions", color="blue", icon=":material/edit:")
    elif not campaign.is_votable:
        st.badge("nothing to vote on", color="red", icon=":material/error:")
    else:
        st.badge("open for votes", color="green", icon=":material/how_to_vote:")


def draw_head(ctx: Context, person: Person, campaign: CampaignView) -> None:
    """Draw name, ballot link and actions."""
    back_link("All campaigns", page=routes.BATTLES, key="back_to_campaigns")
    with st.container(horizontal=True, vertical_alignment="center"):
        object_heading(campaign.name, width="content")
        draw_state(campaign)
        st.space("stretch")
        if campaign.is_votable and st.button("Vote", type="primary", key="to_ballot", icon=":material/how_to_vote:"):
            st.switch_page(routes.BALLOT, query_params={"campaign": campaign.id})
        if campaign.num_votes:
            draw_download(
                "Votes as CSV",
                partial(export_votes_csv, ctx, campaign.id),
                "votes.csv",
                key="votes_csv",
                help="Raters are numbered, not named; the tab Raters has the numbers.",
            )
        if person.may_build and not campaign.is_standing and not campaign.is_imported:
            closing = campaign.is_open
            if st.button(
                "Close" if closing else "Reopen",
                key="close_campaign",
                icon=":material/lock:" if closing else ":material/lock_open:",
            ):
                with rerun_after():
                    close_campaign(ctx, campaign.id, person=person, closed=closing)
    source = f" from {campaign.dataset}" if campaign.dataset else ""
    votes = f"{plural(campaign.num_votes, 'vote')} by {plural(campaign.num_raters, 'rater')}"
    num_excluded, raters = count_excluded_votes(ctx, campaign.id)
    if num_excluded:
        votes += f", {num_excluded:,} of them left out with {plural(raters, 'excluded rater')}"
    st.caption(plain(f"{plural(campaign.num_prompts, 'prompt')}{source}, {votes}."))


def draw_contestants(ctx: Context, person: Person, campaign: CampaignView) -> None:
    """Draw the contestants, the progress of their completions, and the form to enter another."""
    for contestant in campaign.contestants:
        with st.container(horizontal=True, vertical_alignment="center"):
            if contestant.checkpoint_id is None:
                st.markdown(plain(contestant.name), width="content")
            else:
                page_link(routes.CHECKPOINTS, plain(contestant.name), {"checkpoint": contestant.checkpoint_id})
            if contestant.job is not None:
                status_badge(contestant.job.status, ready="written")
            if not campaign.is_imported and not campaign.is_standing:
                st.caption(f"{contestant.completions} of {campaign.num_prompts} prompts answered", width="content")
            if contestant.failed and contestant.job is not None:
                st.caption(plain(contestant.job.error.cause or ""), width="content")
                if person.may_build and st.button(
                    "Generate the rest", key=f"retry_{contestant.id}", icon=":material/refresh:"
                ):
                    with rerun_after():
                        retry_generation(ctx, contestant.id, person=person)
    if not person.may_build or not campaign.is_open or campaign.is_standing:
        return
    playing = {contestant.checkpoint_id for contestant in campaign.contestants}
    others = label_usable_first(ctx, [one for one in list_checkpoints(ctx, ready=True) if one.id not in playing])
    if others:
        with st.popover("Add a contestant", icon=":material/add:", key=menu_key("enter_menu")):
            chosen = choose_from("Checkpoint", others, key="enter_which")
            if st.button("Add", key="enter_go"):
                with rerun_after():
                    add_contestant(ctx, campaign.id, chosen, person=person)
                    close_menu("enter_menu")


@live_part(1.5)
def draw_writing(ctx: Context, campaign_id: str, *, votable: bool) -> None:
    """Draw the progress of completions; rerun the page once the first battle is ready and at the end."""
    campaign = get_campaign(ctx, campaign_id)
    if not campaign.is_writing or (campaign.is_votable and not votable):
        st.rerun()
    done, total = campaign.completions, max(1, campaign.expected_completions)
    begun = " You can already vote on those." if votable else ""
    st.progress(min(1.0, done / total), text=f"{done} of {total} completions generated.{begun}")
    jobs = [contestant.job for contestant in campaign.contestants if contestant.job and contestant.is_writing]
    if jobs and all(job.status is Status.QUEUED for job in jobs):
        draw_waiting(ctx, jobs[0])


@live_part(3)
def draw_run_wait(ctx: Context, campaign_id: str) -> None:
    """Draw the run that a rematch waits for."""
    campaign = get_campaign(ctx, campaign_id)
    if len(campaign.contestants) > 1:
        st.rerun()
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(
            "The rematch starts when its run has finished: the new checkpoint is entered against its parent"
            " automatically."
        )
        if campaign.run_job is not None:
            status_badge(campaign.run_job.status, ready="finished")


def draw_rematch_state(ctx: Context, person: Person, campaign: CampaignView) -> None:
    """Draw the origin of a rematch and the run it waits for."""
    if campaign.run_id is None:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("From", width="content")
        if campaign.parent_id and campaign.parent:
            row_link(campaign.parent, page=routes.BATTLES, query={"campaign": campaign.parent_id}, key="to_parent")
        st.caption("by the run", width="content")
        row_link(campaign.run or "", page=routes.RUN, query={"run": campaign.run_id}, key="to_run")
    if campaign.held_out is not None:
        st.caption(
            "Its prompts are held out: the run did not train on them."
            if campaign.held_out
            else "These are the prompts that the run trained on, which favours it."
        )
    ready = rematch_ready(ctx, campaign.id)
    if ready is not None:
        if person.may_build and st.button(
            "Enter the new checkpoint", type="primary", key="enter_rematch", icon=":material/swords:"
        ):
            with rerun_after():
                enter_new_checkpoint(ctx, campaign.id, person=person)
    elif len(campaign.contestants) < 2:
        draw_run_wait(ctx, campaign.id)


def draw_rematches(ctx: Context, campaign: CampaignView) -> None:
    """Draw the rematches of a campaign."""
    for rematch in list_rematches(ctx, campaign.id):
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            row_link(rematch.name, page=routes.BATTLES, query={"campaign": rematch.id}, key=f"rematch_{rematch.id}")
            draw_state(rematch)
            st.space("stretch")
            st.caption(f"{plural(rematch.num_votes, 'vote')} · {when(rematch.created_at)}", width="content")


def draw_campaign(ctx: Context, person: Person, campaign_id: str) -> None:
    """Draw one campaign: its state, and a tab for each question about it."""
    campaign = get_campaign(ctx, campaign_id)
    draw_head(ctx, person, campaign)
    draw_rematch_state(ctx, person, campaign)
    if campaign.is_writing:
        draw_writing(ctx, campaign.id, votable=campaign.is_votable)
    draw_failures(campaign)
    if campaign.config.is_single:
        draw_graded_campaign(ctx, person, campaign)
        return
    board = standings(ctx, campaign.id)
    draw_headline(board, is_closed=not campaign.is_open)
    names = ["Raters", "Contestants"]
    if campaign.num_votes:
        names = ["Board", "Rating", "Answers", "Raters", "Contestants", "Train"]
    if not campaign.num_votes and campaign.is_votable:
        empty_state("No votes yet. Vote yourself, or send a link: it opens the ballot alone, without an account.")
    for name, tab in zip(names, st.tabs(names, key="tab", bind="query-params"), strict=True):
        if tab.open:
            with tab:
                draw_campaign_tab(ctx, person, campaign, board, name=name)


def draw_failures(campaign: CampaignView) -> None:
    """Draw which contestants' completions ended early, and why."""
    for contestant in campaign.contestants:
        if contestant.failed and contestant.job is not None and contestant.completions < campaign.num_prompts:
            error = contestant.job.error
            show_problem(
                f"{contestant.name}: {contestant.completions} of {plural(campaign.num_prompts, 'prompt')} answered."
                f" {error.cause or 'Stopped.'}",
                "Generate the rest in the tab Contestants.",
            )


def draw_graded_campaign(ctx: Context, person: Person, campaign: CampaignView) -> None:
    """Draw the tabs of a campaign whose raters grade single answers."""
    board = grade_board(ctx, campaign.id)
    if not board.num_ratings and campaign.is_votable:
        empty_state("No ratings yet. Rate yourself, or send a link: it opens the ballot alone, without an account.")
    names = ["Board", "Raters", "Contestants", "Train"] if board.num_ratings else ["Raters", "Contestants"]
    for name, tab in zip(names, st.tabs(names, key="tab", bind="query-params"), strict=True):
        if tab.open:
            with tab:
                if name == "Board":
                    draw_grades(board)
                else:
                    draw_campaign_tab(ctx, person, campaign, None, name=name)


def draw_campaign_tab(
    ctx: Context, person: Person, campaign: CampaignView, board: Standings | None, *, name: str
) -> None:
    """Draw the open tab of a campaign."""
    if name == "Board" and board is not None:
        draw_board(ctx, person, campaign, board)
        draw_offline(ctx, campaign)
    elif name == "Rating" and board is not None:
        draw_rating(ctx, person, campaign, board)
    elif name == "Answers":
        draw_answers(ctx, campaign)
    elif name == "Raters":
        draw_raters(ctx, person, campaign)
    elif name == "Train":
        draw_promotion(ctx, person, campaign)
        draw_training_plan(ctx, person, campaign)
        draw_rematches(ctx, campaign)
    else:
        every = 1.5 if campaign.is_writing else None
        live_part(every)(lambda: draw_contestants(ctx, person, get_campaign(ctx, campaign.id)))()


with page_frame(
    "Battles",
    "Blind votes between checkpoints: ratings with intervals, and preference data for training.",
    objects=["campaign", "board"],
    way_back=True,
) as (context_, person_):
    wanted_, board_ = st.query_params.get("campaign"), st.query_params.get("board")
    if board_:
        draw_frozen_board(context_, board_)
    elif wanted_:
        draw_campaign(context_, person_, wanted_)
    else:
        draw_campaign_list(context_, person_)
