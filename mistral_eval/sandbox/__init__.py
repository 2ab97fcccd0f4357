"""Run generated programs in isolation and return results that they cannot forge."""

from mistral_eval.sandbox.isolation import CHOICES, Isolation, probe, run_programs, try_choice
from mistral_eval.sandbox.outcomes import Limits, ProgramResult, Status

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
