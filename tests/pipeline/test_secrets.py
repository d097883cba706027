"""A password and a token in a run's locations: they are used, and lie nowhere afterwards."""

import base64
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

from pipeline.run import main

PASSWORD, TOKENS = "hunter2-of-the-corpus", ("sesame-one", "sesame-two")
TEXT = "\n\n".join(f"Document {number} tells of {number * 7} things.\nAnd of more." for number in range(200)).encode()
CONFIG = """
output: {output}
ingest: {{sources: ["{address}/corpus.txt?token={token}"], heldout_fraction: 0.1}}
vocab: {{size: 200}}
shard: {{sequence_length: 32}}
pretrain: {{model: {{size: tiny}}, steps: 10, batch_size: 8, learning_rate: 5e-4, warmup_steps: 2}}
cluster: {{env: {{MY_API_TOKEN: {token}}}}}
"""


@pytest.fixture
def guarded() -> Iterator[str]:
    """The address, password included, of a server that gives `/corpus.txt` to who knows password and token.

    Of `/refused.txt` it tells the size, and gives nothing.
    """
    expected = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            known = self.headers.get("Authorization") == expected and query.removeprefix("token=") in TOKENS
            is_refused = path == "/refused.txt" and self.command == "GET"
            self.send_response(401 if not known else 403 if is_refused else 200)
            self.send_header("ETag", '"one"')
            self.send_header("Content-Length", str(len(TEXT)) if known and not is_refused else "0")
            self.end_headers()
            if known and self.command == "GET" and not is_refused:
                self.wfile.write(TEXT)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://me:{PASSWORD}@127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def holders(folder: Path) -> list[str]:
    """The files below a folder in which the password or a token stands."""
    secrets = [secret.encode() for secret in (PASSWORD, *TOKENS)]
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if any(secret in path.read_bytes() for secret in secrets)]


def test_no_file_holds_a_password_or_a_token_and_another_token_runs_nothing_anew(
    ray_cluster, guarded, tmp_path, capfd, monkeypatch
):
    output, session = tmp_path / "out", Path(ray._private.worker._global_node.get_session_dir_path())
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(output=output, address=guarded, token=TOKENS[0]))
    monkeypatch.setattr(sys, "orig_argv", ["python", f"{guarded}/corpus.txt?token={TOKENS[0]}"])  # as typed with --set
    assert main([str(config), "--until", "ingest"]) == 0
    said = capfd.readouterr()
    assert "ingest.sources[0] holds a credential" in said.err
    assert "FSSPEC_HTTP=" in said.err

    config.write_text(CONFIG.format(output=output, address=guarded, token=TOKENS[1]))
    assert main([str(config), "--until", "ingest"]) == 0
    again = capfd.readouterr()
    assert "Nothing to do" in again.out
    assert main([str(config), "--print-config"]) == 0
    again = again.out + again.err + "".join(capfd.readouterr())

    # A stage that fails tells its error in many places.
    refused = f'ingest.sources=["{guarded}/corpus.txt?token={TOKENS[0]}", "{guarded}/refused.txt?token={TOKENS[0]}"]'
    assert main([str(config), "--until", "ingest", "--set", refused]) == 1
    failed = capfd.readouterr()
    assert "/refused.txt" in failed.err
    # And what is not even found, its own.
    wrong = f'ingest.sources=["{guarded}/corpus.txt?token=wrong"]'
    assert main([str(config), "--until", "ingest", "--set", wrong]) == 2
    # And YAML that ends too early.
    assert main([str(config), "--set", f"ingest.sources=[{guarded}/corpus.txt?token={TOKENS[0]}"]) == 2
    unknown = capfd.readouterr()

    for text in (*said, again, *failed, *unknown):
        assert not [secret for secret in (PASSWORD, *TOKENS) if secret in text], text
    assert (output / "mlflow.db").exists()
    assert holders(output) == []
    assert holders(session) == []
