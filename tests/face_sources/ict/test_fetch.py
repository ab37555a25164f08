"""Downloads, against a server on this machine: whole files come once, wrong ones never, and a broken run goes on."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlanet_lib.errors import UserError
from mlanet_lib.face_sources.ict import fetch

FILES = {"a.obj": b"v 1 2 3\n", "b.obj": b"v 4 5 6\n" * 1000, "c.json": b"{}"}
HASHES = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


@pytest.fixture
def served(tmp_path):
    """(folder, url, requests): what lies in the folder is served; requests lists the paths that were asked for."""
    folder, requests = tmp_path / "served", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requests.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05), daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/", requests
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_files_come_once_and_damaged_ones_again(served, tmp_path, capsys):
    folder, url, requests = served
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    cache = tmp_path / "cache"
    assert fetch.fetch("Model", url, HASHES, cache) == cache
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == FILES
    assert "Model" in capsys.readouterr().err
    requests.clear()
    fetch.fetch("Model", url, HASHES, cache)
    assert requests == []
    (cache / "b.obj").write_bytes(FILES["b.obj"][:100])
    fetch.fetch("Model", url, HASHES, cache)
    assert set(requests) == {"/b.obj"}
    assert (cache / "b.obj").read_bytes() == FILES["b.obj"]


def test_a_broken_download_goes_on_where_it_was(served, tmp_path, capsys):
    folder, url, requests = served
    for name in ("a.obj", "b.obj"):
        (folder / name).write_bytes(FILES[name])
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match=r"c\.json .* 2 of 3 files .*--ict"):
        fetch.fetch("Model", url, HASHES, cache)
    (folder / "c.json").write_bytes(FILES["c.json"])
    requests.clear()
    fetch.fetch("Model", url, HASHES, cache)
    assert set(requests) == {"/c.json"}


def test_a_file_with_another_hash_is_not_kept(served, tmp_path):
    folder, url, _ = served
    for name, content in FILES.items():
        (folder / name).write_bytes(content + b"changed" * (name == "b.obj"))
    with pytest.raises(UserError, match=r"b\.obj .*another file"):
        fetch.fetch("Model", url, HASHES, tmp_path / "cache")
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["a.obj"]


def test_no_network_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--ict") as caught:
        fetch.fetch("Model", "http://127.0.0.1:9/", HASHES, tmp_path)
    assert "\n" not in str(caught.value)


def test_ict_facekit_takes_the_published_list(served, tmp_path, monkeypatch):
    folder, url, requests = served
    monkeypatch.setattr("mlanet_lib.face_sources.ict.facekit.hashes", lambda: HASHES)
    monkeypatch.setenv("MLANET_CACHE", str(tmp_path))
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(fetch, "ICT_URL", url)
    found = fetch.ict_facekit()
    assert tmp_path in found.parents and sorted(p.name for p in found.iterdir()) == sorted(FILES)
    assert len(requests) == 3
