"""Stands in for vLLM where only its processes matter: `serve` answers /health, and has an engine.

`write_standin` makes a package `vllm` of it, which the supervisor then starts like the real one.
It reads its port, says in a file which processes it is, and on SIGTERM ends its engine first.
"""

import http.server
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue

ENGINE = "import time\nwhile True: time.sleep(1)"


class _Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


def main() -> int:
    """`serve MODEL --port N ...`; the model is the folder that it writes its pids into."""
    folder, words = Path(sys.argv[2]), sys.argv[3:]
    if "--fail" in words:
        sys.stderr.write("no such model architecture\n")
        return 3
    port = int(words[words.index("--port") + 1])
    drain_s = float(words[words.index("--drain") + 1]) if "--drain" in words else 0.0
    engine = subprocess.Popen([sys.executable, "-c", ENGINE])
    # In a session of its own, as a process that wants to outlive its parent would be.
    apart = subprocess.Popen([sys.executable, "-c", ENGINE], start_new_session=True)
    stop: SimpleQueue[None] = SimpleQueue()
    signal.signal(signal.SIGTERM, lambda *_: stop.put(None))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder / "pids").write_text(f"{engine.pid} {apart.pid}")
    sys.stderr.write(f"serving on {port}\n")
    stop.get()
    time.sleep(drain_s)
    for one in (engine, apart):
        one.kill()
        one.wait()
    return 0


def write_standin(folder: Path) -> Path:
    """A folder for PYTHONPATH in which `vllm` is this."""
    package = folder / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    for above in (package, package.parent, package.parent.parent):
        (above / "__init__.py").touch()
    (package / "main.py").write_text(Path(__file__).read_text())
    return folder


if __name__ == "__main__":
    sys.exit(main())
