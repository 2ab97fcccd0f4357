"""What huggingface_hub's exceptions mean, as sentences that end in what to do."""

import errno
from typing import TypeGuard

from huggingface_hub import errors

from mistral_eval.model.memory import TRY_TINY

# huggingface_hub speaks through requests (before 1.0: errors are OSErrors), httpx (1.x) or httpx2
# (2.x); the base of its own HTTP error is the base of whichever it is.
_HTTP_ERROR: type[Exception] = errors.HfHubHTTPError.__bases__[0]
CONNECTION_ERRORS: tuple[type[Exception], ...] = (OSError, _HTTP_ERROR, errors.HFValidationError)


def unreachable(error: Exception) -> bool:
    """Whether the hub gave no answer at all, or one of a server in trouble."""
    if _is_answer(error):
        return _status(error) >= 500
    return not isinstance(error, errors.HFValidationError)


def sentence_for(error: Exception, ref: str, revision: str | None) -> str:
    """One sentence: what was asked, what came back, what to do."""
    if _is_answer(error):
        return f"{_refusal(error, ref, revision)}, {TRY_TINY}."
    return f"{_failure(error, ref)}, {TRY_TINY}."


def _is_answer(error: Exception) -> TypeGuard[errors.HfHubHTTPError]:
    """Whether the hub answered at all; before 1.0 a file missing from the cache had that class."""
    return isinstance(error, errors.HfHubHTTPError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    )


def _refusal(error: errors.HfHubHTTPError, ref: str, revision: str | None) -> str:
    """The hub answered, and not with the model."""
    page = f"https://huggingface.co/{ref}"
    status = _status(error)
    # a gated repository is one that is not found, to the hub's classes: it comes first
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{ref} is gated, and the hub does not let this login have it: accept its terms on "
            f"{page}, then `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{ref} has no revision {revision}: see {page}/tree/main for what it has"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{ref} is neither a folder here nor a model on the hub that this login may see: check "
            "the name, `hf auth login` if it is private"
        )
    if status in {401, 403}:
        return f"the hub refused {ref} ({status}): `hf auth login` or set HF_TOKEN"
    if status == 429:
        return f"the hub takes no more requests from here (429) for {ref}: wait a while"
    return f"the hub answered {status} for {ref}: try again later, give a folder"


def _failure(error: Exception, ref: str) -> str:
    """Nothing came from the hub, or it could not be kept."""
    if isinstance(error, errors.HFValidationError):
        return f"{ref} is not a name the hub can have ({error}): check it"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk filled up while {ref} came in: free some space and go on"
    if isinstance(error, PermissionError):
        return f"the hub's cache cannot be written ({error}): set HF_HOME to a folder of yours"
    kind = type(error.__cause__ or error).__name__
    return (
        f"the Hugging Face hub could not be reached for {ref} ({kind}): check the network or its "
        "proxy, give a folder"
    )


def _status(error: errors.HfHubHTTPError) -> int:
    """The HTTP status behind an error; 0 without a response."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)
