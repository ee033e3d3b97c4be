"""Asks a question through a running controller (or one worker) and prints what it says, as a test of a whole set-up.

Prints the models, the address that answers, and the answer as it is written. Keys are read from LLAVA_API_KEY and
LLAVA_CLUSTER_TOKEN; where the controller keeps its workers' addresses to itself, it passes the answer on.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from llava.command_line import DONE, run

if TYPE_CHECKING:
    from llava.serve.client.http_client import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--controller-address",
        "--controller",
        default="http://localhost:21001",
        metavar="URL",
        help="of the controller (default: http://localhost:21001)",
    )
    parser.add_argument(
        "--worker-address", "--worker", metavar="URL", help="of a worker, to be asked without the controller"
    )
    parser.add_argument("--model-name", metavar="NAME", help="which model (default: the first that is served)")
    parser.add_argument("--max-new-tokens", type=int, default=32, help="tokens to write at most (default: 32)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy, at most 2 (default: 0.7)")
    parser.add_argument(
        "--message",
        default="Tell me a story with more than 1000 words.",
        metavar="TEXT",
        help="the question (default: asks for a story)",
    )
    parser.add_argument(
        "--image-file", action="append", default=[], metavar="IMAGE", help="an image; repeat for several"
    )
    parser.add_argument("--template", metavar="NAME", help="prompt template (default: by the model's name)")


def main(args: argparse.Namespace) -> int:
    from llava.conversation import template
    from llava.images.loading import load_image
    from llava.prompting import place_images
    from llava.serve.client.http_client import Client
    from llava.serve.protocol.original import GENERATE_PATH
    from llava.template_choice import default_template_for

    images = [load_image(file) for file in args.image_file]
    model, address = _find(args)
    print(f"worker_addr: {address}")

    conversation = template(args.template or default_template_for(name=model))
    question = place_images(args.message, len(images), first=conversation.image_first)
    conversation.append_message(conversation.roles[0], (question, images, "Pad"))
    conversation.append_message(conversation.roles[1], None)
    body = {
        "model": model,
        "prompt": conversation.get_prompt(),
        "temperature": args.temperature,
        "max_new_tokens": args.max_new_tokens,
        "stop": conversation.stop_str,
    }
    if images:
        body["images"] = conversation.get_images()

    print(f"{conversation.roles[0]}: {args.message}")
    print(f"{conversation.roles[1]}: ", end="", flush=True)
    with Client(address, headers=_cluster_headers(), timeout_s=330.0) as client:
        _print_answer(client, GENERATE_PATH, body)
    return DONE


def _find(args: argparse.Namespace) -> tuple[str, str]:
    """The model to ask, and who passes the question to it."""
    from llava.errors import ModelNotFound
    from llava.serve.client.http_client import Client

    if args.worker_address:
        with Client(args.worker_address) as worker:
            models = worker.post("/worker_get_status")["model_names"]
        return args.model_name or models[0], args.worker_address
    with Client(args.controller_address, headers=_cluster_headers()) as controller:
        models = sorted(controller.post("/list_models")["models"])
        print(f"Models: {models}")
        if not models or args.model_name not in (None, *models):
            raise ModelNotFound(args.model_name or "(any)", models)
        model = args.model_name or models[0]
        return model, _address(controller, model)


def _address(controller: Client, model: str) -> str:
    from llava.errors import NoWorker, RemoteError

    try:
        address = controller.post("/get_worker_address", {"model": model})["address"]
    except RemoteError as error:
        if error.status in (401, 403):
            return controller.address
        raise
    if not address:
        raise NoWorker(f"no worker of model {model!r} answers now. Look at the log of the controller.")
    return address


def _cluster_headers() -> dict[str, str]:
    from llava.serve.service.security import ClusterToken

    token = ClusterToken.from_settings()
    return token.headers() if token else {}


def _print_answer(client: Client, path: str, body: dict) -> None:
    shown = len(body["prompt"])
    try:
        for frame in client.frames(path, body):
            text = frame["text"]
            print(text[shown:], end="", flush=True)
            shown = max(shown, len(text))
    finally:
        print()


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
