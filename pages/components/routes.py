"""Scripts of the pages under `pages/`, as `st.page_link` and `st.switch_page` take them."""

from __future__ import annotations

OVERVIEW = "home/overview.py"

DATASETS = "build/datasets.py"
ARCHITECTURES = "build/architectures.py"
TOKENIZERS = "build/tokenizers.py"
PLANNER = "build/planner.py"
LAUNCH = "build/launch.py"
RUNS = "build/runs.py"
RUN = "build/run.py"
SWEEP = "build/sweep.py"
CHECKPOINTS = "build/checkpoints.py"
INSPECT = "build/inspect.py"

EVALUATIONS = "evaluate/evaluations.py"
BATTLES = "evaluate/battles.py"
BALLOT = "evaluate/ballot.py"

ENDPOINTS = "serve/endpoints.py"
PLAYGROUND = "serve/playground.py"

WORKERS = "admin/workers.py"
PEOPLE = "admin/people.py"
