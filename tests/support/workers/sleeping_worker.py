"""A worker whose jobs are sleeping children.

celery -A tests.support.workers.sleeping_worker worker -Q cpu -c 2
"""

from __future__ import annotations

from jobs import celery_app, runner
from tests.support.workers import sleeping_child

app = celery_app.app
runner.CHILD_MODULE = sleeping_child.__name__
