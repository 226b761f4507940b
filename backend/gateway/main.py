"""The gateway of this installation, for an ASGI server: `uvicorn backend.gateway.main:app`."""

from backend.bootstrap import get_context
from backend.gateway.app import create_gateway
from backend.gateway.installed import InstalledDirectory

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "testserver")

_ctx = get_context()
app = create_gateway(InstalledDirectory(_ctx), allowed_hosts=("*",) if _ctx.sign_in else LOOPBACK)
