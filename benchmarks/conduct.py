"""What every benchmark run has in common: it ends in order, however it ends."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from ds01_kernels.errors import Ds01Error

from .case import WrongAnswerError
from .stage import Stage


def conduct(run: Callable[[Stage], Awaitable[None]], image: str = "") -> int:
    """Run it on a new stage, where `image` has ipykernel if it is named; the exit code.

    All is removed at the end, also after Ctrl-C or SIGTERM.
    """
    # To end by SIGTERM or with the terminal is to end by Ctrl-C; a script's background job would ignore that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    # What peers log of each start is not of interest here.
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)
    stage = Stage(image)
    try:
        asyncio.run(_whole(run, stage))
    except KeyboardInterrupt:
        say("Interrupted; removing what this run has made.")
        return 130
    except (Ds01Error, WrongAnswerError, TimeoutError) as error:
        say(f"{type(error).__name__}: {error}\n{stage.log_end()}".rstrip())
        return 1
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        stage.remove()
    return 0


async def _whole(run: Callable[[Stage], Awaitable[None]], stage: Stage) -> None:
    await run(stage)
    await stage.engine.close()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def rounds(text: str) -> int:
    """For argparse: a number of rounds."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds: give 1 or more.")
    return int(text)
