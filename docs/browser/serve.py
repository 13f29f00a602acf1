"""index.html and wllama on this machine alone: three files, and nothing else.

    python docs/browser/serve.py FOLDER [--port 8080]

FOLDER: where `npm install @wllama/wllama` was run. The two headers let a page use several threads; any server of files
that sends them will do.
"""

import argparse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HEADERS = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


def handler(files: dict[str, tuple[str, bytes]]) -> type[BaseHTTPRequestHandler]:
    """Answers with `files`: by path, their type and bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in files:
                return self.send_error(404)
            kind, content = files[self.path]
            self.send_response(200)
            for name, value in (HEADERS | {"Content-Type": kind, "Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8080)
    given = parser.parse_args()
    wllama = given.folder / "node_modules/@wllama/wllama/esm"
    page = Path(__file__).with_name("index.html")
    files = {
        "/": ("text/html", page.read_bytes()),
        "/wllama/index.js": ("text/javascript", (wllama / "index.js").read_bytes()),
        "/wllama/wasm/wllama.wasm": ("application/wasm", (wllama / "wasm/wllama.wasm").read_bytes()),
    }
    server = ThreadingHTTPServer(("127.0.0.1", given.port), handler(files))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
