"""How a command ends: one table of exit codes, and the wrapper that every command runs in."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path

from ..support.errors import ran_out_of_memory
from ..support.files import RunError
from ..support.paths import cache_dir


class Exit(IntEnum):
    """What the program returns to the shell."""

    OK = 0
    SOME_FAILED = 1
    WRONG_REQUEST = 2
    NOT_KEPT = 3
    FAULT = 70
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.OK: "well",
    Exit.SOME_FAILED: "some images failed (or notebooks, pages, checks)",
    Exit.WRONG_REQUEST: "wrong request, data or model",
    Exit.NOT_KEPT: "the run cannot be kept or read",
    Exit.FAULT: "a fault of this program",
    Exit.INTERRUPTED: "interrupted",
}


PATIENCE = 1.5  # seconds from Ctrl-C to the end of the process


def guarded(work: Callable[[], int], command: str, kept: str = "", bounded: bool = False) -> int:
    """Run a command and turn whatever escapes it into one line on standard error and an exit code.

    Args:
        work: The command, which returns an exit code of its own.
        command: The command line as it can be given again.
        kept: What an interruption leaves, as a sentence without its full stop.
        bounded: End the whole process :data:`PATIENCE` seconds after Ctrl-C, even if something still waits for threads or workers.

    Returns:
        The command's own code; else 2 on what the user can mend (``ValueError``, ``OSError``, a package that is not installed, too
        little memory), 3 on a :class:`~diffseg_lib.support.files.RunError`, 130 on Ctrl-C, and 70 on any other exception, whose
        traceback goes to a file that is named.
    """
    farewell = f"interrupted: {kept or 'what was written is kept'}; the command to go on is\n  {command}\n"
    said = threading.Event()
    if bounded:
        end_soon(farewell, said)
    try:
        return work()
    except KeyboardInterrupt:
        if not said.is_set():
            said.set()
            sys.stderr.write(farewell)
        if bounded:  # the interpreter's own end takes seconds once torch is loaded
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(Exit.INTERRUPTED)
        return Exit.INTERRUPTED
    except RunError as error:
        return _refuse(error, Exit.NOT_KEPT)
    except ModuleNotFoundError as error:
        if (error.name or "diffseg_lib").split(".")[0] == "diffseg_lib":
            return _fault(error, command)
        print(f"error: the package {error.name} is not installed: pip install 'diffseg-lib[all]' brings everything", file=sys.stderr)
        return Exit.WRONG_REQUEST
    except Exception as error:
        if ran_out_of_memory(error):
            print("error: out of memory: ask for fewer classes at a time, a smaller picture or model, or --offload on a card", file=sys.stderr)
            return Exit.WRONG_REQUEST
        return _refuse(error, Exit.WRONG_REQUEST) if isinstance(error, ValueError | OSError) else _fault(error, command)


def end_soon(farewell: str, said: threading.Event) -> None:
    """From Ctrl-C on, give this process :data:`PATIENCE` seconds to end by itself.

    A thread is told of the signal at once, also while the main thread computes or waits in C. Whatever is written, is written
    under another name and renamed, so that an end at any moment leaves whole files.

    Args:
        farewell: What is printed, unless it has been.
        said: Whether it has been.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def watch(writer: socket.socket) -> None:  # holds the writing end open, too
        while signal.SIGINT not in reader.recv(64):
            pass
        time.sleep(PATIENCE)
        if not said.is_set():
            said.set()
            os.write(2, farewell.encode())
        os._exit(Exit.INTERRUPTED)

    shown = sys.unraisablehook

    def show(raised: sys.UnraisableHookArgs) -> None:  # while an object is dropped, an interruption cannot be raised: the watch ends the process
        if not issubclass(raised.exc_type, KeyboardInterrupt):
            shown(raised)

    sys.unraisablehook = show
    threading.Thread(target=watch, args=(writer,), daemon=True, name="ends the process after Ctrl-C").start()


def _refuse(error: Exception, code: Exit) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _fault(error: Exception, command: str) -> int:
    """Keep the traceback in a file of the cache, and say where."""
    name = type(error).__name__
    try:
        path = write_log(error, command)
    except OSError as second:
        traceback.print_exception(error)
        print(f"error: a fault of this program ({name}: {error}), and no log could be written ({second})", file=sys.stderr)
        return Exit.FAULT
    print(f"error: a fault of this program, not of the request ({name}: {' '.join(str(error).split())}): the traceback is in {path}", file=sys.stderr)
    return Exit.FAULT


def write_log(error: BaseException, command: str) -> Path:
    """Write a traceback, with the command and the versions, into ``logs`` of the cache folder; returns the file's path."""
    from .results import versions

    folder = cache_dir() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    known = ", ".join(f"{name} {number}" for name, number in versions().items())
    path.write_text(f"{command}\nin {os.getcwd()}\n{known}\n\n{''.join(traceback.format_exception(error))}", encoding="utf-8")
    return path


def spelled(arguments: Sequence[str], module: str = "diffseg_lib") -> str:
    """A command line that a shell can be given again, started as this process was started.

    Args:
        arguments: What follows the program's name.
        module: What ``python -m`` starts, where it was not the script ``diffseg``.

    >>> spelled(["segment", "my photo.jpg"]).endswith("segment 'my photo.jpg'")
    True
    """
    script = Path(sys.argv[0])
    started = [sys.argv[0]] if script.stem == "diffseg" else [sys.executable, "-m", module]
    here = Path(started[0])
    if here.is_absolute() and here.is_relative_to(Path.cwd()):
        started[0] = str(here.relative_to(Path.cwd()))
    return shlex.join([*started, *arguments])
