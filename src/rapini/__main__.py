"""`python -m rapini`: the `rapini` command where its script is not on the PATH."""

import sys

from rapini.cli import main

sys.exit(main())
