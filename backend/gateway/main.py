"""The gateway of this installation, for an ASGI server: `uvicorn backend.gateway.main:app`."""

import gc

gc.disable()  # a fifth of the time of the imports below

# ruff: noqa: E402
from backend.bootstrap import get_context, host_rules
from backend.gateway.app import create_gateway
from backend.gateway.installed import InstalledDirectory
from backend.gateway.limits import SharedLimits
from backend.settings import Settings

settings = Settings()
limits = SharedLimits(settings.redis_url) if settings.redis_url else None
app = create_gateway(InstalledDirectory(get_context()), hosts=host_rules(settings), limits=limits)
gc.freeze()
gc.enable()
