"""The gateway of this installation, for an ASGI server: `uvicorn backend.gateway.main:app`."""

from backend.bootstrap import get_context, host_rules
from backend.gateway.app import create_gateway
from backend.gateway.installed import InstalledDirectory
from backend.settings import Settings

app = create_gateway(InstalledDirectory(get_context()), hosts=host_rules(Settings()))
