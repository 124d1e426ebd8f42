"""Ask ports for an answer without a token: `port_scan.py '[["10.0.0.1", 20100], …]'`.

Prints [[address, port, what], …]: `asks` where the port wants the token, else what it answered.
"""

from __future__ import annotations

import http.client
import json
import sys

import grpc  # type: ignore[import-untyped]

METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/KillActor",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.RayletDriver/ClusterInfo",
)
TOKEN_WANTED = (grpc.StatusCode.UNAUTHENTICATED, 401)
SILENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED, None)
"""A port that speaks another protocol, or lacks the service."""


def ask_grpc(address: str, port: int, method: str) -> object:
    """Return the status of an empty call; OK is an answer."""
    with grpc.insecure_channel(f"{address}:{port}") as channel:
        call = channel.unary_unary(
            method, request_serializer=bytes, response_deserializer=lambda answer: answer
        )
        try:
            call(b"", timeout=5)
        except grpc.RpcError as refused:
            return refused.code()
        return grpc.StatusCode.OK


def ask_http(address: str, port: int, path: str) -> int | None:
    """Return the status of a GET; None where no HTTP is spoken."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def scan(address: str, port: int) -> str:
    """Return `asks`, or every answer that the port gave without a token."""
    said = {method: ask_grpc(address, port, method) for method in METHODS}
    said |= {path: ask_http(address, port, path) for path in ("/", "/metrics", "/api/healthz")}
    given = {what: str(answer) for what, answer in said.items() if answer not in SILENT}
    asks = [what for what, answer in said.items() if answer in TOKEN_WANTED]
    return "asks" if asks and len(asks) == len(given) else json.dumps(given)


if __name__ == "__main__":
    print(
        json.dumps(
            [[address, port, scan(address, port)] for address, port in json.loads(sys.argv[1])]
        )
    )
