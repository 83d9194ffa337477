"""Several replicas of the server behind Ray Serve's proxy, on this machine or on a cluster of Ray's.

Each replica is the whole server in a process of its own: keys, limits and gates hold in each, and each counts
for itself. A request goes to the less busy of two replicas drawn at random (Ray Serve's router). Ray joins
the cluster that RAY_ADDRESS names, else it begins one here. Connections and heads are the proxy's.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from starlette.types import ASGIApp

from maquette.base.errors import UserError, WrongUse, need
from maquette.serving.api.limits import Limits
from maquette.serving.engine import ROWS

NAME = "maquette"


def run(
    make: Callable[[], ASGIApp],
    host: str,
    port: int,
    limits: Limits,
    replicas: int,
    most: int,
    started: Callable[[], None],
) -> None:
    """Serve by so many replicas, up to `most` where more requests come, until a signal.

    make: makes the server, in each replica's process; it is sent there. started: called when requests are
    answered. Raises WrongUse where the cluster has fewer cores than replicas.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray, serve = need("ray", "ray-serve"), need("ray.serve", "ray-serve")
    here = "RAY_ADDRESS" not in os.environ
    ray.init(include_dashboard=False if here else None, logging_level=logging.WARNING)
    try:
        cores = int(ray.cluster_resources().get("CPU", 0))
        if cores < most:
            raise WrongUse(f"{most} replicas take a core each, and Ray has {cores}: ask for fewer")

        def logged() -> ASGIApp:
            logging.basicConfig(
                stream=sys.stderr,
                level=logging.INFO,
                format="%(asctime)s %(levelname)s %(message)s",
            )
            return make()

        serve.start(http_options={"host": host, "port": port})
        deployment = serve.deployment(
            serve.ingress(logged)(),
            name=NAME,
            max_ongoing_requests=limits.requests,
            graceful_shutdown_timeout_s=limits.drain_seconds,
            logging_config={"enable_access_log": False},  # the server's own has a line a request
            **_count(replicas, most),
        )
        with _signals() as asked:
            try:
                serve.run(deployment.bind(), name=NAME)
            except RuntimeError as error:  # a replica told why it cannot begin in its log
                raise UserError(f"the replicas could not begin: {error}") from error
            started()
            asked.wait()
            serve.delete(NAME)  # answers finish, up to the limit
        serve.shutdown()
    finally:
        ray.shutdown()


def _count(replicas: int, most: int) -> dict[str, Any]:
    """How many replicas: a number, or bounds and the requests at a time that each shall have."""
    if most <= replicas:
        return {"num_replicas": replicas}
    bounds = {"min_replicas": replicas, "max_replicas": most, "target_ongoing_requests": ROWS}
    return {"autoscaling_config": bounds}


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second one ends the process at once."""
    asked = threading.Event()

    def stop(number: int, frame: object) -> None:
        if asked.is_set():
            os._exit(1)
        asked.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
