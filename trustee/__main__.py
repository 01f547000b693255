"""Run the command line with `python -m trustee`."""

from trustee.cli.main import main

raise SystemExit(main())
