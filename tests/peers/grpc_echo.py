"""A gRPC service and its client, by gRPC's own library: `serve PORT`, or `call HOST:PORT`, which prints the answers.

The service needs no message types: it takes bytes. `/echo.Echo/Say` answers with what it got and who sent it;
`/echo.Echo/Count` streams the numbers up to what it got.
"""

import sys
from concurrent import futures

import grpc


def say(request, context):
    context.set_trailing_metadata((("x-peer", context.peer()),))
    return request


def count(request, context):
    if request == b"none":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no number")
    for number in range(int(request)):
        yield b"%d" % number


def serve(port):
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", handlers),))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()


def call(target):
    with grpc.insecure_channel(target) as channel:
        answer = channel.unary_unary("/echo.Echo/Say")(b"hello", timeout=10)
        numbers = list(channel.unary_stream("/echo.Echo/Count")(b"5", timeout=10))
        try:
            list(channel.unary_stream("/echo.Echo/Count")(b"none", timeout=10))
            code = None
        except grpc.RpcError as error:
            code = error.code().name
        print(answer.decode(), b"".join(numbers).decode(), code)


serve(sys.argv[2]) if sys.argv[1] == "serve" else call(sys.argv[2])
