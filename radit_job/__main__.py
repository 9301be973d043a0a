"""`python -m radit_job` is `radit`."""

from radit_job.cli import main

if __name__ == "__main__":
    main()
