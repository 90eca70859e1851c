"""Fetching, from a hub and a file server on the loopback address; and that nothing else in the program touches a network."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

import diffseg_lib
from diffseg_lib.cli.main import main
from diffseg_lib.evaluation.preflight import check_models
from diffseg_lib.fetching import archives, hub, transfer
from diffseg_lib.fetching.archives import Archive, Source, unpack
from diffseg_lib.fetching.hub import choose_files, choose_weights
from diffseg_lib.fetching.transfer import Item
from diffseg_lib.profiles import load_profile
from diffseg_lib.support.imports import module_files
from diffseg_lib.support.locks import lock_to_write, read_lock
from diffseg_lib.support.paths import profiles_dir

ROOT = Path(diffseg_lib.__file__).parent


class Server:
    """Files by path, and a hub of one repository a name; what was asked is noted, and connections may be cut."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, str] = {}
        self.asked: list[tuple[str, str, str]] = []  # method, path, range
        self.cut: dict[str, int] = {}  # path: times that its connection ends half-way
        self.ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args) -> None: ...

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path, span = self.path.split("?")[0], self.headers.get("Range", "")
                outer.asked.append((self.command, path, span))
                if path.startswith("/api/models/"):
                    return self.listing(path)
                if "/resolve/" in path:
                    repository, _, rest = path[1:].partition("/resolve/")
                    name = rest.partition("/")[2]
                    content = outer.repositories.get(repository, {}).get(name)
                    more = {"ETag": f'"{blob(name, content)}"', "X-Repo-Commit": outer.commits[repository]} if content is not None else {}
                    return self.send(path, content, span, more)
                return self.send(path, outer.files.get(path), span, {})

            def listing(self, path: str) -> None:
                repository = path.removeprefix("/api/models/").partition("/revision/")[0]
                if repository not in outer.repositories:
                    return self.send(path, None, "", {"X-Error-Code": "RepoNotFound"})
                siblings = [{"rfilename": name, "size": len(c), "blobId": git(c)} | lfs(name, c) for name, c in outer.repositories[repository].items()]
                facts = {"id": repository, "sha": outer.commits[repository], "tags": ["license:some-licence"], "siblings": siblings}
                return self.send(path, json.dumps(facts).encode(), "", {"Content-Type": "application/json"})

            def send(self, path: str, content: bytes | None, span: str, more: dict[str, str]) -> None:
                if content is None:
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    for name, value in more.items():
                        self.send_header(name, value)
                    return self.end_headers()
                start = int(span.removeprefix("bytes=").rstrip("-")) if span and outer.ranges else 0
                if start >= len(content) > 0:
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                body = content[start:]
                self.send_header("Content-Length", str(len(body)))
                for name, value in more.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return None
                if outer.cut.get(path, 0) > 0:
                    outer.cut[path] -= 1
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return None
                return self.wfile.write(body) and None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def got(self, path: str) -> list[str]:
        """The ranges of the GET requests for a path."""
        return [span for method, asked, span in self.asked if method == "GET" and asked == path]


def git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def blob(name: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_large(name) else git(content)


def lfs(name: str, content: bytes) -> dict:
    return {"lfs": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 130}} if is_large(name) else {}


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    made = Server()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", made.address)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", f"{made.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield made
    made.server.shutdown()
    made.server.server_close()


def tree_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def profile(server, pipeline_folder, tmp_path) -> Path:
    """A profile of a model on the hub, which also holds what nobody needs."""
    files = tree_of(pipeline_folder)
    files["safety_checker/model.safetensors"] = b"not wanted"
    files["unet/diffusion_pytorch_model.bin"] = files["unet/diffusion_pytorch_model.fp16.safetensors"] = b"not wanted either"
    files["v1-5-pruned.safetensors"] = files["README.md"] = b"nor this"
    server.repositories["some/model"], server.commits["some/model"] = files, "a" * 40
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"settings": {"source": "some/model@main", "captioner": "pocket", "clip": "pocket"}}))
    return path


UNET = "unet/diffusion_pytorch_model.safetensors"


def test_a_profile_is_fetched_exactly_locked_and_ready(profile, server, pipeline_folder, tmp_path, capsys):
    assert check_models(load_profile(profile))[0].state == "missing"
    assert main(["fetch", "--profile", str(profile), "--yes"]) == 0
    told = capsys.readouterr().out
    assert "licence: some-licence" in told and f"written to {tmp_path / 'mine.lock.yaml'}" in told
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / ("a" * 40)
    wanted = {name: content for name, content in tree_of(pipeline_folder).items() if "/" in name or name == "model_index.json"}
    assert {name: (snapshot / name).read_bytes() for name in tree_of(snapshot)} == wanted
    held = read_lock(tmp_path / "mine.lock.yaml")["models"]["some/model@main"]
    assert held["commit"] == "a" * 40 and held["licence"] == "some-licence"
    assert held["files"][UNET] == {"size": len(wanted[UNET]), "sha256": hashlib.sha256(wanted[UNET]).hexdigest()}
    assert load_profile(profile).source == f"some/model@{'a' * 40}"
    assert check_models(load_profile(profile))[0].state == "ready"
    code = "import sys; from diffseg_lib.loading import load_backbone; print(load_backbone(sys.argv[1]).size)"
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code, str(profile)], capture_output=True, text=True, env=environment, cwd=ROOT.parent, check=False)
    assert done.stdout == "64\n", done.stderr


def test_a_lock_holds_until_it_is_updated(profile, server, capsys):
    assert main(["fetch", "--profile", str(profile), "--yes"]) == 0
    server.asked.clear()
    assert main(["fetch", "--profile", str(profile)]) == 0  # everything is here, so nobody is asked
    assert all(method == "HEAD" or path.startswith("/api/") for method, path, _ in server.asked)
    assert any("a" * 40 in path for _, path, _ in server.asked)
    server.commits["some/model"] = "b" * 40
    assert main(["fetch", "--profile", str(profile), "--update", "--yes"]) == 0
    assert load_profile(profile).source == f"some/model@{'b' * 40}"


def test_an_interrupted_model_goes_on_where_it_was(profile, server, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    path = f"/some/model/resolve/{'a' * 40}/{UNET}"
    server.cut[path] = 1
    assert main(["fetch", "--profile", str(profile), "--yes"]) == 2
    size = len(server.repositories["some/model"][UNET])
    assert f"{size // 2} bytes of {size} are kept, and the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "mine.lock.yaml").exists() and check_models(load_profile(profile))[0].state == "missing"
    assert main(["fetch", "--profile", str(profile), "--yes"]) == 0
    assert server.got(path) == ["", f"bytes={size // 2}-"]


def test_a_file_that_is_another_is_never_kept(profile, server, monkeypatch, capsys, tmp_path):
    right = server.repositories["some/model"][UNET]
    wrong = bytes([right[0] ^ 1]) + right[1:]
    monkeypatch.setattr(hub, "fetch_model", lambda model, inner=hub.fetch_model: (server.repositories["some/model"].update({UNET: wrong}), inner(model))[1])
    assert main(["fetch", "--profile", str(profile), "--yes"]) == 2
    told = capsys.readouterr().err
    assert f"{UNET} has the sha256 checksum {hashlib.sha256(wrong).hexdigest()}: expected {hashlib.sha256(right).hexdigest()}" in told
    assert not list((tmp_path / "hub").rglob(f"{hashlib.sha256(right).hexdigest()}*"))


def test_nobody_is_charged_unasked(profile, server, monkeypatch, capsys):
    assert main(["fetch", "--profile", str(profile)]) == 2
    assert "nobody can be asked here: give --yes to agree" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: "n")
    assert main(["fetch", "--profile", str(profile)]) == 1
    assert not any("/resolve/" in path for _, path, _ in server.asked)


def test_a_repository_that_was_taken_down_is_said(server, tmp_path, capsys):
    path = tmp_path / "gone.yaml"
    path.write_text("settings: {source: gone/model, captioner: pocket, clip: pocket}")
    assert main(["fetch", "--profile", str(path), "--yes"]) == 2
    assert "there is no gone/model at " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "variant", "chosen", "said"),
    [
        (["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors"], "", ["model.safetensors"], ""),
        (["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors"], "fp16", ["model.fp16.safetensors"], ""),
        (["pytorch_model.bin", "tf_model.h5"], "", ["pytorch_model.bin"], "there are no safetensors, so .bin is taken"),
        (["model.fp16.safetensors", "pytorch_model.bin"], "", ["model.fp16.safetensors"], "there is no plain variant, so fp16 is taken"),
        (["model.safetensors"], "fp16", ["model.safetensors"], "there is no fp16 variant, so the plain one is taken"),
        (["diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.safetensors"], "", ["diffusion_pytorch_model.safetensors"], ""),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
            "",
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
            "",
        ),
        (
            ["model.fp16-00001-of-00001.safetensors", "model.safetensors.index.fp16.json", "model.safetensors"],
            "fp16",
            ["model.fp16-00001-of-00001.safetensors", "model.safetensors.index.fp16.json"],
            "",
        ),
        (["model-00001-of-00002.safetensors", "model.safetensors.index.json"], "", [], ""),  # half of it
    ],
)
def test_one_precision_and_one_format(names, variant, chosen, said):
    assert choose_weights(names, variant) == (chosen, said)


def test_a_tokenizer_comes_with_its_chat_template():
    parts = ["transformer/config.json", "transformer/model.safetensors", "tokenizer/tokenizer.json", "tokenizer/chat_template.jinja", "tokenizer/notes.txt"]
    assert set(choose_files([*parts, "ae.safetensors"])[0]) == set(parts[:-1])


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="it holds prior, vae: expected a pipeline with unet/config.json or transformer/config.json"):
        choose_files(["prior/config.json", "vae/config.json"])
    with pytest.raises(ValueError, match="vae holds no weights as safetensors or .bin, but config.json"):
        choose_files(["unet/config.json", "unet/diffusion_pytorch_model.bin", "vae/config.json"])


# -- data sets


def tar_of(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return held.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return held.getvalue()


@pytest.fixture
def voc(server, monkeypatch) -> Archive:
    content = tar_of({"VOCdevkit/VOC2012/JPEGImages/a.jpg": b"a picture" * 1000})
    server.files["/voc/some.tar"] = content
    one = Archive("some.tar", f"{server.address}/voc", "VOCdevkit/VOC2012", "", hashlib.md5(content).hexdigest(), len(content))
    monkeypatch.setitem(archives.SOURCES, "voc", Source((one,), "its own terms"))
    return one


def fetch_voc(root: Path, *more: str) -> int:
    return main(["fetch", "--profile", "pocket", "--data", "voc", "--data-root", str(root), "--lock", str(root.parent / "own.lock.yaml"), "--yes", *more])


def test_data_are_fetched_resumed_checked_and_unpacked(voc, server, tmp_path, monkeypatch, capsys):
    root = tmp_path / "data"
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    server.cut["/voc/some.tar"] = 1
    assert fetch_voc(root) == 2
    half = len(server.files["/voc/some.tar"]) // 2
    assert f"{half} bytes of {2 * half} are kept" in capsys.readouterr().err
    assert [path.name for path in root.iterdir()] == ["some.tar.incomplete"]
    assert fetch_voc(root) == 0
    assert server.got("/voc/some.tar") == ["", f"bytes={half}-"]
    assert tree_of(root) == {"VOCdevkit/VOC2012/JPEGImages/a.jpg": b"a picture" * 1000}  # neither the archive nor a half-written tree
    held = read_lock(tmp_path / "own.lock.yaml")["data"]["some.tar"]
    assert held["md5"] == voc.md5 and held["size"] == 2 * half and held["sha256"] == hashlib.sha256(server.files["/voc/some.tar"]).hexdigest()
    server.asked.clear()
    assert fetch_voc(root) == 0 and not server.asked
    assert "is left as it is" in capsys.readouterr().out


def test_a_connection_that_breaks_is_taken_up_in_the_same_run(voc, server, tmp_path):
    server.cut["/voc/some.tar"] = 3
    assert fetch_voc(tmp_path / "data") == 0
    assert len(server.got("/voc/some.tar")) == 4


@pytest.mark.parametrize("ranges", [True, False])
def test_bytes_of_another_file_never_end_in_the_right_one(voc, server, tmp_path, ranges, capsys):
    root = tmp_path / "data"
    root.mkdir()
    (root / "some.tar.incomplete").write_bytes(b"of another file")
    server.ranges = ranges
    assert fetch_voc(root) == (2 if ranges else 0)  # a server without ranges sends the whole again
    if ranges:
        assert "md5 checksum" in capsys.readouterr().err and not list(root.iterdir())
        assert fetch_voc(root) == 0


def test_a_file_of_another_size_is_refused_before_it_comes(voc, server, tmp_path, capsys):
    server.files["/voc/some.tar"] += b"more"
    assert fetch_voc(tmp_path / "data") == 2
    assert f"is of {voc.size + 4} bytes: expected {voc.size}" in capsys.readouterr().err


def test_a_mirror_has_to_hold_the_same_file(voc, server, tmp_path, capsys):
    server.files["/other/some.tar"] = server.files.pop("/voc/some.tar")
    assert fetch_voc(tmp_path / "data") == 2 and "the server answers 404" in capsys.readouterr().err
    assert fetch_voc(tmp_path / "data", "--mirror", f"{server.address}/other/") == 0


@pytest.mark.parametrize("make", [tar_of, zip_of])
@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "tree/../../outside.txt"])
def test_no_archive_writes_outside_its_folder(tmp_path, make, name):
    path = tmp_path / "inner" / "some.archive"
    path.parent.mkdir()
    path.write_bytes(make({"tree/a": b"a", name: b"b"}))
    with pytest.raises(ValueError, match="would write outside its folder"):
        unpack(path, "tree", tmp_path / "inner" / "tree")
    assert [one.name for one in tmp_path.rglob("*") if one.is_file()] == ["some.archive"] and not (tmp_path / "inner" / "tree").exists()


@pytest.mark.parametrize(("content", "told"), [(b"no archive", "cannot be unpacked"), (tar_of({"else/a": b"a"}), "holds no tree")])
def test_a_damaged_archive_leaves_no_tree(tmp_path, content, told):
    path = tmp_path / "some.tar"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=told):
        unpack(path, "tree", tmp_path / "data" / "tree")
    assert not list((tmp_path / "data").iterdir())


def test_an_authorization_goes_to_its_own_server_alone(server, tmp_path, monkeypatch):
    seen = {}
    other = Server()
    for name, one in (("first", server), ("other", other)):
        handler = one.server.RequestHandlerClass

        def do_GET(self, name=name, one=one):
            seen[name] = self.headers.get("Authorization")
            if name == "first":
                self.send_response(302)
                self.send_header("Location", f"{other.address}/file")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            return self.send("/file", b"content", "", {})

        monkeypatch.setattr(handler, "do_GET", do_GET)
    try:
        transfer.transfer(Item("file", f"{server.address}/file", tmp_path / "file", 7), {"Authorization": "Bearer secret"})
    finally:
        other.server.shutdown()
        other.server.server_close()
    assert seen == {"first": "Bearer secret", "other": None} and (tmp_path / "file").read_bytes() == b"content"


def test_the_known_archives_are_these():
    known = {one.name: (one.size, one.md5) for source in archives.SOURCES.values() for one in source.archives}
    assert known["VOCtrainval_11-May-2012.tar"] == (1_999_639_040, "6cd6e144f989b92b3379bac3b3de84fd")
    assert set(archives.SOURCES) == {"voc", "context", "object"}
    assert all(
        one.folder.startswith(("http://host.robots.ox.ac.uk/", "http://images.cocodataset.org/")) for s in archives.SOURCES.values() for one in s.archives
    )


def test_a_lock_lies_beside_the_profile_or_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSEG_CACHE", str(tmp_path / "cache"))
    shipped = profiles_dir() / "sd15.yaml"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    place = lock_to_write(shipped)
    assert place == tmp_path / "cache" / "locks" / "sd15.lock.yaml"
    place.parent.mkdir(parents=True)
    name = yaml.safe_load(shipped.read_text())["settings"]["source"]
    place.write_text(yaml.safe_dump({"models": {name: {"commit": "c" * 40}}}))
    assert load_profile("sd15").source == f"{name.partition('@')[0]}@{'c' * 40}"
    place.write_text("models: [")
    with pytest.raises(ValueError, match="sd15.lock.yaml is damaged"):
        load_profile("sd15")


# -- and nothing else

TREES = {name: ast.parse(path.read_text()) for name, path in module_files(ROOT).items()}
NETWORK = {
    "requests",
    "httpx",
    "httpx2",
    "aiohttp",
    "urllib.request",
    "urllib3",
    "http.client",
    "ftplib",
    "socketserver",
    "http.server",
    "telnetlib",
    "smtplib",
}
DOWNLOADS = {"snapshot_download", "hf_hub_download", "urlopen", "urlretrieve", "model_info", "load_state_dict_from_url", "load_dataset"}


def touches(tree: ast.Module) -> list[str]:
    """What of a module could reach a network: imports, and calls that are not told to look at local files alone."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in NETWORK]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [one for one in (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)) if one in NETWORK]
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            local = any(key.arg is None or (key.arg == "local_files_only" and getattr(key.value, "value", False) is True) for key in node.keywords)
            local |= bool(node.args) and isinstance(node.args[0], ast.BinOp)  # folder / name: a path
            found += [called] if (called in DOWNLOADS or called in ("from_pretrained", "load_config", "from_single_file")) and not local else []
    return found


@pytest.mark.parametrize("source", ["import requests", "from urllib import request", "from_pretrained(x)", "hub.snapshot_download(x, local_files_only=False)"])
def test_a_planted_call_is_found(source):
    assert touches(ast.parse(source))


@pytest.mark.parametrize("name", list(TREES))
def test_nothing_but_fetching_touches_a_network(name):
    if name.startswith("fetching."):
        return
    assert not touches(TREES[name])
    importing = {str(node.module) for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom)}
    assert name == "cli.fetch" or not any("fetching" in one for one in importing)


def test_commands_run_with_every_connection_refused(tmp_path, picture, monkeypatch, pipeline_folder):
    from PIL import Image

    tried = []

    def refuse(*args, **kwargs):
        tried.append(args)
        raise OSError("no network here")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    command = ["segment", str(tmp_path / "photo.png"), "--classes", "house", "--recipe", "released", "--out", str(tmp_path / "out")]
    assert main([*command, "--profile", str(shutil.copytree(pipeline_folder, tmp_path / "model")), "--captioner", "pocket"]) == 0
    assert main(["check", "--profile", "sd15"]) == 1
    assert not tried
