"""`pydlb serve` with the applications of frameworks, unchanged."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
import websockets.sync.client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The module of applications imports all frameworks.
pytest.importorskip("fastapi", reason="fastapi has no wheel for this interpreter")

# Each has /hello/NAME, /numbers (a stream), /upload (how many bytes came); the ASGI ones /lines, a stream without end.
APPLICATIONS = """
import asyncio, contextlib, json
import fastapi, flask, starlette.applications, starlette.responses, starlette.routing, starlette.websockets

async def lines(request):
    async def forever():
        try:
            while True:
                yield "line\\n"
                await asyncio.sleep(0.01)
        finally:
            print("the client is gone", flush=True)
    return starlette.responses.StreamingResponse(forever(), media_type="text/plain")

def numbers():
    for number in range(1000):
        yield f"{number}\\n"

# ---- FastAPI

@contextlib.asynccontextmanager
async def lifespan(app):
    print("fast started", flush=True)
    yield {"name": "state"}
    print("fast stopped", flush=True)

fast = fastapi.FastAPI(lifespan=lifespan)

@fast.get("/hello/{name}", response_class=fastapi.responses.PlainTextResponse)
@fast.head("/hello/{name}")
def fast_hello(name: str):
    return f"hello {name}"

@fast.get("/state")
def fast_state(request: fastapi.Request):
    return {"state": request.state.name, "client": request.client.host}

@fast.get("/numbers")
def fast_numbers():
    return fastapi.responses.StreamingResponse(numbers())

@fast.post("/upload")
async def fast_upload(request: fastapi.Request):
    return {"size": sum([len(chunk) async for chunk in request.stream()])}

@fast.get("/lines")
async def fast_lines(request: fastapi.Request):
    return await lines(request)

@fast.websocket("/chat")
async def fast_chat(socket: fastapi.WebSocket):
    await socket.accept()
    with contextlib.suppress(fastapi.WebSocketDisconnect):
        while True:
            await socket.send_text("heard " + await socket.receive_text())
    print("the chat is over", flush=True)

# ---- Starlette

async def star_hello(request):
    return starlette.responses.PlainTextResponse(f"hello {request.path_params['name']}")

async def star_numbers(request):
    return starlette.responses.StreamingResponse(numbers())

async def star_upload(request):
    return starlette.responses.JSONResponse({"size": len(await request.body())})

async def star_chat(socket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text("heard " + text)
    print("the chat is over", flush=True)

def make_star():
    route = starlette.routing.Route
    return starlette.applications.Starlette(routes=[
        route("/hello/{name}", star_hello), route("/numbers", star_numbers), route("/lines", lines),
        route("/upload", star_upload, methods=["POST"]), starlette.routing.WebSocketRoute("/chat", star_chat)])

# ---- Flask, through the bridge

flask_app = flask.Flask("strangers")

@flask_app.get("/hello/<name>")
def flask_hello(name):
    return f"hello {name}"

@flask_app.get("/numbers")
def flask_numbers():
    return flask.Response(numbers(), mimetype="text/plain")

@flask_app.post("/upload")
def flask_upload():
    return {"size": len(flask.request.get_data())}

# ---- Django

import django.conf, django.http, django.urls, django.core.asgi
django.conf.settings.configure(
    ROOT_URLCONF="strangers", SECRET_KEY="x", ALLOWED_HOSTS=["*"], DATA_UPLOAD_MAX_MEMORY_SIZE=None)

def django_hello(request, name):
    return django.http.HttpResponse(f"hello {name}")

async def django_numbers(request):
    async def each():
        for number in numbers():
            yield number
    return django.http.StreamingHttpResponse(each())

def django_upload(request):
    return django.http.JsonResponse({"size": len(request.body)})

urlpatterns = [django.urls.path("hello/<name>", django_hello), django.urls.path("numbers", django_numbers),
               django.urls.path("upload", django_upload)]
django_app = django.core.asgi.get_asgi_application()
"""

APPS = {
    "fastapi": ("strangers:fast",),
    "starlette": ("strangers:make_star", "--factory"),
    "django": ("strangers:django_app",),
    "flask": ("strangers:flask_app",),
}
UPLOAD = 20 * 2**20


@pytest.fixture(params=APPS)
def served(request: pytest.FixtureRequest, serve: Callable[..., Any], folder: Path) -> Any:
    (folder / "strangers.py").write_text(APPLICATIONS)
    return serve(*APPS[request.param], "--workers", "2")


def test_pages_streams_and_uploads(served: Any) -> None:
    with contextlib.closing(served.connect()) as connection:
        for _ in range(2):
            assert served.ask(connection, "/hello/you") == ["hello", "you"]
            assert served.ask(connection, "/numbers") == [str(number) for number in range(1000)]
            connection.request("POST", "/upload", body=b"x" * UPLOAD)
            assert json.load(connection.getresponse()) == {"size": UPLOAD}
        connection.request("POST", "/upload", body=iter([b"x" * 1000] * 50), encode_chunked=True)
        assert json.load(connection.getresponse()) == {"size": 50_000}
        connection.request("HEAD", "/hello/you")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")
        assert served.ask(connection, "/hello/you") == ["hello", "you"]
        connection.request("GET", "/nowhere")
        missing = connection.getresponse()
        missing.read()
        assert missing.status == 404
    served.stop()


def test_uploads_that_ask_before(served: Any) -> None:
    """Expect: 100-continue."""
    with socket.create_connection(served.address, timeout=60) as client:
        head = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        client.sendall(head)
        assert client.recv(1000).startswith(b"HTTP/1.1 100 Continue")
        client.sendall(b"hello")
        response = http.client.HTTPResponse(client)
        response.begin()
        assert json.load(response) == {"size": 5}
    served.stop()


@pytest.mark.parametrize("served", ["fastapi", "starlette"], indirect=True)
def test_a_client_that_leaves_in_the_middle_is_noticed(served: Any) -> None:
    with socket.create_connection(served.address, timeout=60) as client:
        client.sendall(b"GET /lines HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b"line" not in received:
            received += client.recv(1000)
    served.wait_for("the client is gone")
    served.stop()


@pytest.mark.parametrize("served", ["fastapi", "starlette"], indirect=True)
def test_websockets(served: Any) -> None:
    host, port = served.address
    with websockets.sync.client.connect(f"ws://{host}:{port}/chat", compression=None, max_size=None) as chat:
        for text in ("hello", "x" * 1_000_000):
            chat.send(text)
            assert chat.recv() == "heard " + text
    served.wait_for("the chat is over")
    served.stop()


@pytest.mark.parametrize("served", ["fastapi"], indirect=True)
def test_lifespan(served: Any) -> None:
    """On each worker, with a state that its requests see."""
    assert json.loads("".join(served.get("/state"))) == {"state": "state", "client": "127.0.0.1"}
    said = served.stop()
    assert (said.count("fast started"), said.count("fast stopped")) == (2, 2)
