"""The device to run on."""

import torch

from mistral_eval.errors import EngineError


def choose_device(name: str) -> torch.device:
    """Return the device to run on; `auto` is cuda if available, else cpu.

    Raises:
        EngineError: torch does not know the device, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:  # torch lists all that it knows, and most machines have two
        raise EngineError(
            f"--device {name} cannot be used: torch knows no such device. Give cpu, cuda, cuda:1 "
            "or another that torch has here, or auto."
        ) from error
    if device.type == "meta":
        raise EngineError(f"--device {name} computes no values. Give cpu, or auto.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).partition("\n")[0].partition(". ")[0]
        raise EngineError(
            f"--device {name} cannot be used here ({first}). Give cpu, or auto."
        ) from error
    return device
