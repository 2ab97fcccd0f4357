"""Turn what the libraries behind an engine raise into one sentence."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from safetensors import SafetensorError

from mistral_eval.errors import MistralEvalError

# What libraries raise for a checkpoint or a request that they cannot handle.
FAULTS: Final = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError),
    *(EOFError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(SafetensorError, pickle.UnpicklingError),
)


@contextmanager
def library_faults(
    said: Callable[[str], MistralEvalError], also: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn an exception that a library raises in the `with` block into an error of ours.

    An exception raised in this package's own code is a bug and keeps its traceback.

    Args:
        said: called with the cause, in one line; returns the error to raise.
        also: exceptions of a library's own, besides `FAULTS`.
    """
    try:
        yield
    except Exception as error:
        # the tokenizers library raises bare Exception
        if type(error) is not Exception and not isinstance(error, (*FAULTS, *also)):
            raise
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        if frame is not None and frame.tb_frame.f_globals["__name__"].startswith("mistral_eval."):
            raise
        lines = str(error).strip().splitlines()
        raise said(lines[0] if lines else type(error).__name__) from error
