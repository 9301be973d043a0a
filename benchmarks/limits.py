"""What this machine can do at most, as one JSON line: `python benchmarks/limits.py [--threads 2]`.

In a process of its own, so that the table stays small; the shares in the table are of these figures.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    import torch
    from side_by_side import LM

    from radit_job.latency.machine import MOST_READ_BYTES, device_name, measure, size_of
    from radit_job.model_ref import ModelRef
    from radit_job.models import precision
    from radit_job.models.loading import open_local_lm

    torch.set_num_threads(args.threads)
    device = precision.device()
    pays = precision.bfloat16_pays(device.type)
    kinds = (torch.float32, torch.bfloat16) if pays else (torch.float32,)
    found = {str(kind).removeprefix("torch."): asdict(measure(kind, device, MOST_READ_BYTES)) for kind in kinds}
    lm = size_of(open_local_lm(ModelRef("packaged", LM, dtype="float32")).model)
    facts = {"device": device_name(device), "bfloat16_pays": pays, "limits": found, "lm": lm and asdict(lm)}
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
