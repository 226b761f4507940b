"""A worker whose jobs are sleeping children.

celery -A tests.support.sleeping_worker worker -Q cpu -c 2
"""

from __future__ import annotations

from jobs import celery_app, runner

app = celery_app.app
runner.CHILD_MODULE = "tests.support.sleeping_child"
