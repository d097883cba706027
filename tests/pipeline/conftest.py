"""Makes `fake_stages` importable for the tests beside it, and a web server."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


class WebServer:
    """Serves `/corpus/part.txt`, whatever the query, with an etag; `/broken/` fails. Remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append((self.command, self.path))
                path = self.path.partition("?")[0]
                self.send_response(500 if "broken" in path else 200 if path == "/corpus/part.txt" else 404)
                self.send_header("Content-Length", "5")
                self.send_header("ETag", '"etag of part.txt"')
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(b"text\n")

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def web():
    web = WebServer()
    thread = threading.Thread(target=web.server.serve_forever)
    thread.start()
    yield web
    web.server.shutdown()
    thread.join()
    web.server.server_close()
