"""A process of its own: for a learner's code, which may hang or crash, and for a competitor in a
timing.

Workers are forked from a server that has already imported TVM (`multiprocessing`'s forkserver with
a preloaded module), so one starts in milliseconds. Each leads its own process group, so that a time
limit ends its children too and Ctrl-C reaches only the parent.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from types import ModuleType
from typing import IO, Any

from tvm_practice.common.command import typed

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tvm_practice.common.import_tvm"])

GIB = 1 << 30
FILE_LIMIT = 64 << 20  # bytes that a limited worker may write into any one file, its output too
PRINTED_KEPT = 1 << 16
LOOK_SECONDS = 0.3  # between two looks at what may end a wait

_look: Callable[[], None] | None = None
_server_said: IO[bytes] | None = None  # what the fork server wrote to its standard error


@dataclass(frozen=True)
class Failure:
    """Why a worker gave no result.

    kind: "raised" (an exception), "died" (the process ended by itself or by a signal) or "timeout".
    """

    kind: str
    sentence: str
    printed: str = ""


class WorkerFailed(RuntimeError):
    """Raised by `call` and `Worker.ask` when the other process gave no result."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.sentence)
        self.failure = failure


def memory_limit() -> int:
    """Bytes of address space a worker may add to what it starts with: half of this machine's
    memory, but enough for torch, whose CUDA build maps 4 GiB without using them."""
    import psutil

    return max(6 * GIB, psutil.virtual_memory().total // 2)


class Worker:
    """One process that runs `function(connection, *arguments)` until it returns.

    The function answers requests over the connection, or, through `call`, sends one result. What it
    prints is kept, so that a crash can be told with the last thing it said.
    """

    def __init__(
        self, function: Callable[..., None], *arguments: Any, limit_memory: bool = False
    ) -> None:
        self._printed = tempfile.NamedTemporaryFile(  # noqa: SIM115 - lives as long as the worker
            prefix="tvm_practice_", suffix=".out"
        )
        # What it, or a compiler that it starts, leaves behind when it is stopped in the middle.
        self._temporary = tempfile.TemporaryDirectory(  # removed by stop()
            prefix="tvm_practice_", ignore_cleanup_errors=True
        )
        self.connection, theirs = _context.Pipe()
        limit = memory_limit() if limit_memory else 0
        self._process = _context.Process(
            target=_run,
            args=(theirs, self._printed.name, self._temporary.name, limit, function, arguments),
            daemon=True,
        )
        try:
            with _without_main():
                _start_server()
                self._process.start()
        except (OSError, EOFError) as error:
            self.__exit__()
            raise WorkerFailed(Failure("died", _no_server(error))) from None
        except BaseException:  # a Ctrl-C that was held back meanwhile
            self.__exit__()
            raise
        theirs.close()

    def ask(self, request: Any, seconds: float) -> Any:
        """Send a request and return the answer; raise WorkerFailed if none comes in `seconds`."""
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died: answer() says how
            self.connection.send(request)
        return self.answer(seconds)

    def answer(self, seconds: float) -> Any:
        """The next answer; raise WorkerFailed when the process raised, died, or took longer than
        `seconds`."""
        try:
            if not self._has_answer(seconds):
                self.stop()
                sentence = f"it was still running after {seconds:.0f} seconds and was stopped"
                raise WorkerFailed(Failure("timeout", sentence, self.printed()))
            status, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(5)
            sentence = _death(self._process.exitcode)
            self.stop()
            raise WorkerFailed(Failure("died", sentence, self.printed())) from None
        if status == "raised":
            raise WorkerFailed(Failure("raised", value, self.printed()))
        return value

    def _has_answer(self, seconds: float) -> bool:
        """Whether an answer comes in time. It waits in steps: a Ctrl-C that another thread took, as
        a spinner's does while a process is being started, is only noticed between them; and whoever
        asked for it may look for a reason to give up."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.connection.poll(min(left, LOOK_SECONDS)):
                return True
            if _look is not None:
                _look()
        return self.connection.poll(0)

    def printed(self) -> str:
        """The end of what the process has written to its standard output and standard error."""
        with open(self._printed.name, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - PRINTED_KEPT))
            return file.read().decode(errors="replace")

    def stop(self) -> None:
        """End the process and everything it started."""
        if self._process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            if self._process.is_alive():
                self._process.kill()  # it had not made its own group yet
            self._process.join(5)
        self.connection.close()
        for _ in range(100):  # a compiler that has just been killed may still add a file
            self._temporary.cleanup()
            if not os.path.exists(self._temporary.name):
                break
            time.sleep(0.01)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._printed.close()


def call(
    function: Callable[..., Any], *arguments: Any, seconds: float = 120, limit_memory: bool = False
) -> Any:
    """Run `function(*arguments)` in a worker and return its result; raise WorkerFailed if there is
    none.

    Function, arguments and result must be picklable.
    """
    with Worker(_send_result, function, arguments, limit_memory=limit_memory) as worker:
        return worker.answer(seconds)


@contextmanager
def looking(look: Callable[[], None]) -> Iterator[None]:
    """While a worker is waited for, call `look` a few times a second; what it raises ends the wait,
    and with it the worker."""
    global _look
    before, _look = _look, look
    try:
        yield
    finally:
        _look = before


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the program that was started, which multiprocessing would import again in every worker,
    and hold back Ctrl-C, which the fork server would answer with a trace while it loads TVM."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    resource_tracker.ensure_running()  # starting it lets Ctrl-C through again: before, not within
    with _interrupt_later():
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            sys.modules["__main__"] = program
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_server() -> None:
    """Start the fork server, if it does not run, so that its standard error is kept: where it
    cannot load TVM, that has the reason."""
    global _server_said
    try:
        errors = os.dup(2)
    except OSError:  # closed, and nothing is lost
        forkserver.ensure_running()
        return
    try:
        _server_said = _server_said or tempfile.TemporaryFile()  # noqa: SIM115 - as the server
        os.dup2(_server_said.fileno(), 2)
        forkserver.ensure_running()
    finally:
        os.dup2(errors, 2)
        os.close(errors)


def _no_server(error: BaseException) -> str:
    """Why no process could be started: the last that the fork server said."""
    said = []
    if _server_said is not None:
        _server_said.seek(0)
        said = _server_said.read().decode(errors="replace").split("\n")
    reason = next((line.strip() for line in reversed(said) if line.strip()), "")
    reason = reason or f"it ended without a word ({type(error).__name__})"
    return (
        f"the process that loads TVM could not be started: {reason.rstrip('.')}; "
        f"`{typed('doctor')}` looks into it"
    )


@contextmanager
def _interrupt_later() -> Iterator[None]:
    """Hold back Ctrl-C also where another thread, such as a spinner's, takes the signal: Python
    would raise it here all the same, and a process that has just been started would be forgotten,
    and run on."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted, and may say how
        return
    taken: list[tuple] = []
    handler = signal.signal(signal.SIGINT, lambda *given: taken.append(given))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if taken and callable(handler):
            handler(*taken[0])


def _send_result(connection: Connection, function: Callable[..., Any], arguments: tuple) -> None:
    connection.send(("returned", function(*arguments)))


def _run(
    connection: Connection,
    printed: str,
    temporary: str,
    limit: int,
    function: Callable[..., None],
    arguments: tuple,
) -> None:
    """The worker's main: own process group, output to a file, a folder for temporary files, memory
    limited, exceptions sent as sentences."""
    os.setsid()
    torch_cache = f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", torch_cache)  # it serves the next worker too
    os.environ["TMPDIR"] = tempfile.tempdir = temporary
    with open(printed, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if limit:
        with suppress(ValueError, OSError):  # a stricter limit stands already
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, resource.RLIM_INFINITY))
        with suppress(ValueError, OSError):  # macOS knows the limit and refuses to set it
            resource.setrlimit(
                resource.RLIMIT_AS, (limit + _address_space(), resource.RLIM_INFINITY)
            )
    try:
        function(connection, *arguments)
    except EOFError:
        pass  # the parent has gone
    except BaseException as error:  # a learner's code may raise anything, SystemExit too
        with suppress(OSError):
            sys.stderr.write(traceback.format_exc())
        connection.send(("raised", f"{type(error).__name__}: {error}"))
    with suppress(OSError):  # a full disk, or more printed than FILE_LIMIT
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # no destructors: a damaged interpreter must not turn an answer into a crash


def _address_space() -> int:
    """Bytes of address space this process has now (0 where /proc does not tell)."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        reason = {
            "SIGABRT": "the process was aborted",
            "SIGSEGV": "it read or wrote memory that is not its own",
            "SIGKILL": "the operating system killed it, most likely for using too much memory",
        }.get(name, "a signal ended the process")
        return f"it ended the whole Python process ({name}: {reason})"
    return f"it ended the whole Python process (exit status {exitcode})"
