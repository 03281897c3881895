"""A token in, a Ray cluster of one node with its dashboard out, in a process of its own; ends when its input does.

python -m tests.cluster.served [PORT]
"""

from __future__ import annotations

import os
import socket
import sys

from ray.cluster_utils import Cluster


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main() -> None:
    head = {
        "num_cpus": 2,
        "object_store_memory": 200 * 2**20,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": int(sys.argv[1]) if len(sys.argv) > 1 else free_port(),
        "dashboard_agent_listen_port": free_port(),  # another Ray on this machine has the usual one
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    print(f"http://{cluster.webui_url}", flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    assert os.environ["RAY_AUTH_MODE"] == "token"
    main()
