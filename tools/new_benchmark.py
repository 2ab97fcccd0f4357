"""Write what a new benchmark needs beside its YAML file and its object.

python tools/new_benchmark.py NAME --data DIR --footnote "where DIR's rows come from"

DIR holds the whole test set in the hub's columns. Written are 16 sample rows, the fingerprints of
both, and the golden prompt, which is to be read before it is committed. Without --data, for rows
that cannot be had, the 16 rows are those you wrote below mistral_eval/data/sample.
"""

import argparse
from pathlib import Path

import golden_prompts
import make_pins
import make_sample


def main() -> None:
    """Read the command line and write the three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="the task's name, as in tasks/NAME.yaml and the registry")
    parser.add_argument("--data", help="folder of whole test sets")
    parser.add_argument("--footnote", default="", help="what is known of the rows of --data")
    parser.add_argument(
        "--pin", help="the copy's name; \"hub\" if it equals the hub's rows (default: NAME-copy)"
    )
    asked = parser.parse_args()
    if asked.data and not asked.footnote:
        parser.error("--data needs --footnote")
    if asked.data:
        make_sample.write_sample(asked.name, Path(asked.data))
    make_pins.write_pins(asked.name, asked.data, asked.pin or f"{asked.name}-copy", asked.footnote)
    golden_prompts.write(asked.name)
    print(f"Written: the sample and the pins of {asked.name} below mistral_eval/data, and")
    print(f"tests/golden/prompts/{asked.name}.txt, which is to be read before it is committed.")


if __name__ == "__main__":
    main()
