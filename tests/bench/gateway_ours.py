"""Our gateway as `make bench BENCH=gateway` measures it: one process, everything on.

python -m tests.bench.gateway_ours PORT ENGINE_PORT
"""

import sys

from slm_operator.gateway.access import OpenAccess
from slm_operator.gateway.app import Gateway
from slm_operator.gateway.directory import Endpoint, Service, StaticDirectory
from slm_operator.gateway.listening import Listener
from slm_operator.gateway.serving import run, serve_until_told

HOST = "127.0.0.1"


async def main(port: int, engine_port: int) -> None:
    """Serve until told to end."""
    service = Service("default", "qwen", slots=100_000, endpoints=(Endpoint("engine-0", HOST, engine_port),))
    gateway = Gateway(StaticDirectory([service]), OpenAccess())
    listener = Listener(gateway)
    await listener.listen(HOST, port)
    await serve_until_told(listener, 1.0)


if __name__ == "__main__":
    run(main(int(sys.argv[1]), int(sys.argv[2])))
