"""Tests a running set-up: asks a question through a controller, or directly at a worker, and prints the answer.

Prints the models, the address that answers, and the answer as it is generated. Keys are read from LLAVA_API_KEY and
LLAVA_CLUSTER_TOKEN. If the controller does not reveal its workers' addresses, it forwards the question itself.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava.command_line import DONE, run

if TYPE_CHECKING:
    from llava.serve.client.http_client import Client

DEFAULT_MESSAGE = "Tell me a story with more than 1000 words."


@dataclass(frozen=True, slots=True)
class MessageSettings:
    """The question, and who answers it."""

    controller: str
    """Address of the controller."""
    worker: str | None
    """Address of a worker to ask directly; None asks through the controller."""
    model: str | None
    """Name of the model; None takes the first one that is served."""
    message: str
    """The question."""
    image_files: tuple[str, ...]
    """Paths of the images, in order."""
    template: str | None
    """Name of the prompt template; None chooses it by the model's name."""
    temperature: float
    """Sampling temperature; 0 is greedy."""
    max_new_tokens: int
    """Maximum length of the answer in tokens."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> MessageSettings:
        """Reads the command line."""
        return cls(
            controller=args.controller_address,
            worker=args.worker_address,
            model=args.model_name,
            message=args.message,
            image_files=tuple(args.image_file),
            template=args.template,
            temperature=args.temperature,
            max_new_tokens=args.max_new_tokens,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--controller-address",
        "--controller",
        default="http://localhost:21001",
        metavar="URL",
        help="Address of the controller (default: http://localhost:21001).",
    )
    parser.add_argument(
        "--worker-address",
        "--worker",
        metavar="URL",
        help="Address of a worker to ask directly (default: ask through the controller).",
    )
    parser.add_argument("--model-name", metavar="NAME", help="Model to ask (default: the first one that is served).")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=32,
        metavar="N",
        help="Maximum length of the answer in tokens (default: 32).",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.7,
        metavar="T",
        help="Sampling temperature from 0 (greedy) to 2 (default: 0.7).",
    )
    parser.add_argument(
        "--message",
        default=DEFAULT_MESSAGE,
        metavar="TEXT",
        help="Question to ask (default: a request for a story).",
    )
    parser.add_argument(
        "--image-file",
        action="append",
        default=[],
        metavar="IMAGE",
        help="Image to send with the question; repeat for several (default: none).",
    )
    parser.add_argument("--template", metavar="NAME", help="Prompt template (default: chosen by the model's name).")


def main(args: argparse.Namespace) -> int:
    ask(MessageSettings.from_args(args))
    return DONE


def ask(settings: MessageSettings) -> None:
    """Asks the question and prints the answer as it arrives.

    Raises:
        LlavaError: an image is unusable, the model or the template is unknown, or no answer came.
    """
    from llava.conversation import template
    from llava.images.loading import load_image
    from llava.prompting import place_images
    from llava.serve.client.http_client import Client
    from llava.template_choice import default_template_for

    images = [load_image(file) for file in settings.image_files]
    model, address = _find_model(settings)
    print(f"worker_addr: {address}")

    conversation = template(settings.template or default_template_for(name=model))
    question = place_images(settings.message, len(images), first=conversation.image_first)
    conversation.append_message(conversation.roles[0], (question, images, "Pad"))
    conversation.append_message(conversation.roles[1], None)
    body: dict[str, Any] = {
        "model": model,
        "prompt": conversation.get_prompt(),
        "temperature": settings.temperature,
        "max_new_tokens": settings.max_new_tokens,
        "stop": conversation.stop_str,
    }
    if images:
        body["images"] = conversation.get_images()

    print(f"{conversation.roles[0]}: {settings.message}")
    print(f"{conversation.roles[1]}: ", end="", flush=True)
    with Client(address, headers=_cluster_headers(), timeout_s=330.0) as client:
        _print_answer(client, body)


def _find_model(settings: MessageSettings) -> tuple[str, str]:
    """Returns the name of the model, and the address that answers for it."""
    from llava.errors import ModelNotFound
    from llava.serve.client.http_client import Client

    if settings.worker:
        with Client(settings.worker) as worker:
            models = worker.post("/worker_get_status")["model_names"]
        return settings.model or models[0], settings.worker
    with Client(settings.controller, headers=_cluster_headers()) as controller:
        models = sorted(controller.post("/list_models")["models"])
        print(f"Models: {models}")
        if not models or settings.model not in (None, *models):
            raise ModelNotFound(settings.model or "(any)", models)
        model = settings.model or models[0]
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
        raise NoWorker(f"no worker of model {model!r} is available. The controller's log says why.")
    return address


def _cluster_headers() -> dict[str, str]:
    from llava.serve.service.security import ClusterToken

    token = ClusterToken.from_settings()
    return token.headers() if token else {}


def _print_answer(client: Client, body: dict[str, Any]) -> None:
    from llava.serve.protocol.original import GENERATE_PATH

    shown = len(body["prompt"])
    try:
        for frame in client.frames(GENERATE_PATH, body):
            text = frame["text"]
            print(text[shown:], end="", flush=True)
            shown = max(shown, len(text))
    finally:
        print()


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
