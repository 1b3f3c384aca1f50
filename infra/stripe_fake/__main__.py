"""Starts the stand-in: `python -m infra.stripe_fake --port 12111 --data .rentroll/stripe`."""

import argparse
import signal
import sys
from pathlib import Path
from threading import Thread

from infra.stripe_fake.server import LOOPBACK, StandInServer
from infra.stripe_fake.state import State
from schemas.clock import SystemClock


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="infra.stripe_fake", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--data", type=Path, required=True, help="folder that keeps the state")
    parser.add_argument(
        "--faults", action="store_true", help="let tests plant faults and move the clock"
    )
    parser.add_argument("--webhook-url", default="", help="where events are sent, signed")
    parser.add_argument("--webhook-secret", default="whsec_local", help="what signs them")
    arguments = parser.parse_args()
    state = State(arguments.data, SystemClock())
    try:
        server = StandInServer(arguments.port, state, faults=arguments.faults)
    except OSError as error:
        sys.exit(f"cannot listen on {LOOPBACK}:{arguments.port}: {error}")
    if arguments.webhook_url:
        server.courier.register(arguments.webhook_url, arguments.webhook_secret)
    serving = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    # Blocked before the thread starts, so that the signals reach `sigwait` and nobody else.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    serving.start()
    sys.stdout.write(f"stand-in for Stripe on http://{LOOPBACK}:{server.server_address[1]}\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.shutdown()
    server.server_close()
    state.close()


if __name__ == "__main__":
    main()
