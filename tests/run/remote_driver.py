"""Start the command line with quick uploads: python remote_driver.py SECONDS ARGUMENTS..."""

import sys

from mistral_eval.cli.app import main
from mistral_eval.record import remote

if __name__ == "__main__":
    remote.SECONDS = float(sys.argv.pop(1))
    main()
