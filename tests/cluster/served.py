"""A token in, a Ray cluster of one node with its dashboard out, in a process of its own; ends when its input does.

python -m tests.cluster.served
"""

from __future__ import annotations

import os
import sys

import ray


def main() -> None:
    context = ray.init(
        address="local", num_cpus=2, include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=0,
        object_store_memory=200 * 2**20, log_to_driver=False,
    )  # fmt: skip
    print(f"http://{context.dashboard_url}", flush=True)
    print(context.address_info["gcs_address"], flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    assert os.environ["RAY_AUTH_MODE"] == "token"
    main()
