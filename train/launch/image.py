"""The source and its packages as an image: which builder makes it, and what it is called."""

import shutil
from pathlib import PurePosixPath

from train.launch.launching import Order
from train.launch.source_bundle import unpack

BUILDERS = ("podman", "buildah", "docker")
CONTAINERFILE = "train/launch/Containerfile"
HOME = PurePosixPath("/opt/gptjax")  # where the source lies in it


def builder() -> str | None:
    """The builder that is here."""
    return next((name for name in BUILDERS if shutil.which(name) is not None), None)


def image_name(registry: str, order: Order, platform: str) -> str:
    """Named by what is in it."""
    return f"{registry.rstrip('/')}/gptjax:{order.source.tree[:12]}-{platform}"


def making(image: str, order: Order, platform: str) -> tuple[tuple[str, ...], ...]:
    """The commands that build an image and send it to its registry."""
    program, context = builder() or BUILDERS[0], str(order.folder / order.source.name)
    build = (
        program, "build", "--build-arg", f"PLATFORM={platform}", "--tag", image, "--file",
        f"{context}/{CONTAINERFILE}", context,
    )  # fmt: skip
    return build, (program, "push", image)


def check_builder(registry: str) -> None:
    """Raises ValueError where no image can be built."""
    if builder() is None:
        raise ValueError(
            f"--registry {registry}: an image must be built, and there is none of {', '.join(BUILDERS)} here; install "
            "one, or give an image that is built already with --image"
        )


def unpacked(order: Order) -> None:
    """What is built from: the bundle, not the checkout, so that nothing else can be in the image."""
    unpack(order.source, order.folder)
