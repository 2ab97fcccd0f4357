"""Runs a generated program in isolation and brings back a verdict it cannot forge."""

from .isolation import CHOICES, Isolation, probe, try_choice
from .outcomes import Limits, ProgramResult, Status
from .pool import run_programs

__all__ = [
    "CHOICES",
    "Isolation",
    "Limits",
    "ProgramResult",
    "Status",
    "probe",
    "run_programs",
    "try_choice",
]
