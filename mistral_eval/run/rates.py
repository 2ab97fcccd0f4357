"""How fast a run was, for run.json: tokens a second, and the share of the machine's matrix rate."""

from typing import Any, Final

from mistral_eval.engines.interface import Backend
from mistral_eval.engines.native import NativeBackend
from mistral_eval.native.calibrate import matrix_rate
from mistral_eval.native.runner import ModelRunner

MEASURED_FROM: Final = 20.0  # seconds of work; a shorter run does not pay for measuring the machine


def speed_of(backend: Backend) -> dict[str, Any] | None:
    """Speed of what the native engine computed in this process; None of other engines.

    Returns:
        Of scores and of generations: tokens a second, and useful FLOP a second (None where nothing
        was computed) as a share of `matrix_flop_per_second`, the rate of square products in the
        model's dtype on its device (None where the run was too short to measure it).
    """
    if not (isinstance(backend, NativeBackend) and isinstance(backend.engine, ModelRunner)):
        return None
    stats, model = backend.engine.stats, backend.engine.model
    is_long = stats.score_seconds + stats.generate_seconds >= MEASURED_FROM
    rate = matrix_rate(model.dtype, model.device) if is_long else None
    scoring, generating = stats.score_seconds, stats.generate_seconds
    return {
        "matrix_flop_per_second": rate,
        "score": {
            "tokens_per_second": _per(stats.score_computed, scoring),
            "flop_per_second": _per(stats.score_flop, scoring),
            "share": _share(stats.score_flop, scoring, rate),
        },
        "generate": {
            "prompt_tokens_per_second": _per(stats.prompt_computed, generating),
            "decoded_tokens_per_second": _per(stats.generated, generating),
            "flop_per_second": _per(stats.generate_flop, generating),
            "share": _share(stats.generate_flop, generating, rate),
        },
    }


def _per(count: float, seconds: float) -> float | None:
    return count / seconds if count and seconds else None


def _share(flop: float, seconds: float, rate: float | None) -> float | None:
    achieved = _per(flop, seconds)
    return achieved / rate if achieved and rate else None
