"""Workers: status, running jobs, load of their machines, and the commands that add one."""

from __future__ import annotations

from collections import defaultdict

import streamlit as st

from backend.domain.jobs.gauges import MachineGauges
from backend.domain.serving.engines import ENGINE_TITLES
from backend.domain.wording import plural
from backend.services.context import Context, Person
from backend.services.data.tokens import list_tokens
from backend.services.jobs.workers import WorkerView, list_slots
from backend.services.serving.monitoring.gauges import ReplicaGauges, read_live
from pages.components.frame import draw_metric, empty_state, live_part, page_frame, plain
from pages.components.serving.replica_table import draw_replica_table
from pages.components.tables import draw_pager, draw_table
from pages.components.words import ago, size, when

PAGE_MACHINES = 20
FORMS = {
    "text": "running text",
    "chat": "conversations",
    "pairs": "pairs",
    "rated": "rated answers",
    "prompts": "prompts",
}


def draw_machine(
    host: str,
    workers: list[WorkerView],
    slots: list[tuple[str, str, str | None]],
    replicas: list[ReplicaGauges],
    *,
    person: Person,
) -> None:
    """Draw one machine: its gauges, its GPUs, its workers and the replicas that they hold."""
    gauges = next((worker.gauges for worker in workers if worker.gauges), MachineGauges())
    with st.container(border=True):
        st.subheader(plain(host), anchor=False)
        grid = st.grid(4, min_column_width=140)
        cpu = gauges.cpu_percent
        draw_metric(grid, "CPU", f"{cpu:.0f} %" if cpu is not None else "–", help=f"{gauges.cpu_count or '?'} cores")
        total = gauges.memory_total_bytes
        if total:
            draw_metric(grid, "Memory", size(gauges.memory_used_bytes), help=f"of {size(total)}")
        draw_metric(grid, "Workers alive", f"{sum(w.is_alive for w in workers)} of {len(workers)}")
        reasons = {worker.gauges.takes_no_jobs for worker in workers if worker.is_alive} - {""}
        for reason in sorted(reasons):
            st.warning(f"Takes no jobs. {plain(reason)} Update Roundhouse on this machine and restart its worker.")
        devices = sorted({device for worker in workers for device in worker.devices})
        occupied = {device: job for slot_host, device, job in slots if slot_host == host}
        draw_metric(
            grid,
            "GPUs",
            f"{len(occupied)} of {len(devices)} busy" if devices else "none",
            help="Without a GPU, jobs run on the CPU.",
        )
        for gpu in gauges.gpus:
            used, capacity = gpu.memory_used_bytes, gpu.memory_total_bytes
            busy = "busy" if gpu.index in occupied else "free"
            st.progress(
                min(1.0, used / max(1, capacity)),
                text=f"GPU {gpu.index} · {plain(gpu.name)} · {busy} · {size(used)} of {size(capacity)}",
            )
        if gauges.engines:
            names = ", ".join(ENGINE_TITLES.get(engine, plain(engine)) for engine in gauges.engines)
            st.caption(f"Engines beside Roundhouse's: {names}")
        titles = {job_id: title for worker in workers for job_id, title, _ in worker.jobs}
        for device in (d for d in devices if not gauges.gpus):
            doing = titles.get(occupied.get(device) or "", "a job") if device in occupied else "free"
            st.caption(f"Slot {plain(device)}: {plain(doing)}")
        draw_table(
            [
                {
                    "Queue": ", ".join(worker.queues),
                    "State": "alive" if worker.takes_jobs else "takes no jobs" if worker.is_alive else "silent",
                    "Doing": " · ".join(title for _, title, _ in worker.jobs) or "waiting for work",
                    "Slots": worker.concurrency,
                    "Since": ago(worker.started_at),
                    "Last heartbeat": ago(worker.heartbeat_at),
                }
                for worker in workers
            ],
            key=f"workers_{host}",
            alt=f"Workers of {host}",
        )
        if replicas:
            st.markdown("**Replicas**")
            draw_replica_table(
                replicas, key=f"replicas_{host}", alt=f"Replicas on {host}", person=person, with_machine=False
            )


def choose_machines(machines: dict[str, list[WorkerView]]) -> list[str]:
    """Return the machines to draw: all of a few; of many a page of those whose name has the words of a field, first
    those with a worker that is silent or takes no jobs.
    """
    if len(machines) <= PAGE_MACHINES:
        return list(machines)
    words = st.text_input(
        f"Search {plural(len(machines), 'machine')}",
        key="machine",
        bind="query-params",
        placeholder="Name of a machine",
        icon=":material/search:",
    )
    matching = [host for host in machines if words.casefold() in host.casefold()]
    matching.sort(key=lambda host: all(worker.takes_jobs for worker in machines[host]))
    if not matching:
        st.caption("No machine has this name.")
    else:
        silent = sum(not all(worker.is_alive for worker in machines[host]) for host in matching)
        st.caption(f"{plural(len(matching), 'machine')}, {silent} with a worker that is silent.")
    page = draw_pager(-(-len(matching) // PAGE_MACHINES), query=words)
    return matching[(page - 1) * PAGE_MACHINES : page * PAGE_MACHINES]


@live_part(2)
def draw_workers(ctx: Context, person: Person) -> None:
    """Draw every machine, refreshed every two seconds."""
    live = read_live(ctx)
    workers = list(live.workers)
    if not workers:
        empty_state("No worker has reported yet. `make run` starts them; they need a few seconds.")
    machines: dict[str, list[WorkerView]] = defaultdict(list)
    for worker in workers:
        machines[worker.host].append(worker)
    slots = list_slots(ctx)
    for host in choose_machines(machines):
        replicas = [replica for replica in live.replicas if replica.host == host]
        draw_machine(host, machines[host], slots, replicas, person=person)
    elsewhere = [replica for replica in live.replicas if replica.host not in machines]
    if elsewhere:
        st.markdown("**Replicas without a machine that reports**")
        st.caption("They wait for a worker, ran on a machine that is silent, or are models on other servers.")
        draw_replica_table(
            elsewhere, key="replicas_elsewhere", alt="Replicas without a machine that reports", person=person
        )


def draw_how_to_add(ctx: Context) -> None:
    """Explain how another machine joins."""
    with st.expander("Add a worker on another machine", icon=":material/add_circle:", expanded=False):
        st.markdown(
            "On the other machine, install Roundhouse, mount the same artifacts folder, and start a worker with the two"
            " URLs of this installation. It shows up here within seconds."
        )
        st.code(
            "export DATABASE_URL=postgresql+psycopg://USER:PASSWORD@DATABASE_HOST/roundhouse\n"
            "export REDIS_URL=redis://BROKER_HOST:6379/0\n"
            f"export ROUNDHOUSE_HOME=/shared/roundhouse   # here: {ctx.artifacts.root.parent}\n"
            ".venv/bin/roundhouse worker --queues train,eval,serve,cpu",
            language="bash",
        )
        if ctx.db.is_sqlite:
            st.info(
                "This installation runs on SQLite, which serves one machine. Set DATABASE_URL to a PostgreSQL database"
                " first.",
                icon=":material/info:",
            )


def draw_storage(ctx: Context) -> None:
    """Draw the tokens that runs share, the retention of working files, and the free disk space."""
    folders = list_tokens(ctx)
    days = ctx.policy.keep_job_folders_days
    st.subheader("Storage", anchor=False)
    grid = st.grid(4, min_column_width=140)
    draw_metric(grid, "Free disk space", size(ctx.artifacts.free_bytes()), help="On the artifacts' disk.")
    draw_metric(
        grid, "Tokens", size(sum(folder.num_bytes for folder in folders)), help="Encoded datasets that runs share."
    )
    retention = f"are deleted {days:g} days after" if days else "are never deleted after"
    st.caption(
        f"A job's working files {retention} its end, and tokens {retention} the last run that opened them"
        " (`ROUNDHOUSE_KEEP_JOB_FOLDERS_DAYS`); those that a run waits for or trains on stay. A later run makes"
        " deleted tokens again. Runs with their curves and logs, checkpoints and datasets stay."
    )
    if folders:
        with st.expander(
            f"Tokens of {plural(len({folder.content_hash for folder in folders}), 'dataset version')}", expanded=False
        ):
            draw_table(
                [
                    {
                        "Dataset": folder.version or "deleted",
                        "Split": folder.split,
                        "Form": FORMS.get(folder.form, folder.form),
                        "Size": size(folder.num_bytes),
                        "State": "complete" if folder.is_complete else f"{folder.rows_made:,} of {folder.rows:,} rows",
                        "Last opened": when(folder.opened_at),
                    }
                    for folder in folders
                ],
                key="tokens",
                alt="Tokens that runs share",
            )


with page_frame("Workers", "Worker processes and the machines they run on.") as (context_, person_):
    draw_workers(context_, person_)
    draw_storage(context_)
    draw_how_to_add(context_)
