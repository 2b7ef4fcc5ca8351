"""Hosts: diffusion models that are inverted, those of other libraries adapted."""

from typing import TYPE_CHECKING

from invad_med.lazy import offer

if TYPE_CHECKING:
    from invad_med.hosts.adapted import AdaptedHost
    from invad_med.hosts.diffusers_models import from_diffusers
    from invad_med.hosts.functions import from_callable
    from invad_med.hosts.host import Architecture, Host
    from invad_med.hosts.monai_models import from_monai
    from invad_med.hosts.published import as_host, read_host
    from invad_med.hosts.records import ClassLabel, ImageHint, NullPrompt, Pixels
    from invad_med.hosts.weights import with_weights

__all__ = [
    "AdaptedHost",
    "Architecture",
    "ClassLabel",
    "Host",
    "ImageHint",
    "NullPrompt",
    "Pixels",
    "as_host",
    "from_callable",
    "from_diffusers",
    "from_monai",
    "read_host",
    "with_weights",
]
__getattr__ = offer(
    __name__,
    {
        "AdaptedHost": "adapted",
        "Architecture Host": "host",
        "ClassLabel ImageHint NullPrompt Pixels": "records",
        "from_callable": "functions",
        "from_diffusers": "diffusers_models",
        "from_monai": "monai_models",
        "as_host read_host": "published",
        "with_weights": "weights",
    },
)
