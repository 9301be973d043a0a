"""What test_forked_process.py forks: `say`; `wait` for a signal, or `print` first; `listen` until nobody is there."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

if __name__ == "__main__":
    if sys.argv[1] == "say":
        heavy = [name for name in ("torch", "sentence_transformers", "peft") if name in sys.modules]
        said = {
            "heavy": heavy,
            "name": os.environ["RADIT_NAME"],
            "leads": os.getsid(0) == os.getpid(),
            "comm": Path("/proc/self/comm").read_text().strip(),
        }
        print(json.dumps(said))
        print("to stderr", file=sys.stderr)
        raise SystemExit(int(sys.argv[2]))
    if sys.argv[1] == "listen":
        print(os.getpid(), flush=True)
        os.read(0, 1)
        print("nobody is there", flush=True)
    else:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        print("printed" if sys.argv[1] == "print" else "waits")
        threading.Event().wait()
