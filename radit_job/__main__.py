"""`python -m radit_job` is `radit`."""

from radit_job.cli import main

main()
