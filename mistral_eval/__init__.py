"""mistral_eval: the Mistral 7B paper's suite, its protocol and its table."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mistral_eval.report.frames import load_run, load_runs

__version__ = "0.2.0"
__all__ = ["__version__", "load_run", "load_runs"]


def __getattr__(name: str) -> Any:
    """Import what a notebook uses when it is first used: `import mistral_eval` stays light."""
    if name in ("load_run", "load_runs"):
        from mistral_eval.report import frames

        return getattr(frames, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
