"""What is told of a store before it is made: where its images come from, its parts, its size, what is to be known."""

from __future__ import annotations

from fcdm.config.model_checks import who_takes
from fcdm.data.encoding import Group, StoreRequest
from fcdm.data.import_latents import ImportedLatents
from fcdm.data.shards import StorePlan
from fcdm.data.store_contents import Latents, Pixels
from fcdm.features.enough_images import notes_of_few
from fcdm.formatting import bytes_text, plural


def notes_of_plan(request: StoreRequest, plan: StorePlan, group: Group) -> list[str]:
    """One line each, for a terminal."""
    notes = [*plan.source.notes, *_sizes(request, plan, group)]
    if isinstance(plan.content, Pixels):
        notes += notes_of_few(plan.parts)
        notes += [told] if (told := who_takes(plan.resolution)) else []
    return notes


def _sizes(request: StoreRequest, plan: StorePlan, group: Group) -> list[str]:
    count = len(plan.source)
    images, classes = plural(count, "image"), plural(len(plan.source.classes), "class", "classes")
    processes = f"{group.world_size} processes on {group.device.type}" if group.world_size > 1 else str(group.device)
    return [
        f"{images} of {classes} in {request.images}, at {plan.resolution} pixels",
        *_of_content(plan),
        f"{request.out}: {bytes_text(count * plan.image_bytes)} in {plural(plan.shards, 'shard')} "
        f"({plan.content.told}: {bytes_text(plan.image_bytes)} an image); {processes}",
    ]


def _of_content(plan: StorePlan) -> list[str]:
    content = plan.content
    if isinstance(content, Latents):
        shape = " x ".join(str(n) for n in plan.row_shape[2:])
        return [f"VAE {content.vae.id}: latents {shape}, scaling factor {content.vae.scaling_factor}"]
    if isinstance(content, ImportedLatents):
        stored, vae = content.stored, content.vae
        told = f"VAE {vae.name}: latents {' x '.join(map(str, content.shape))}, scaled by {stored.scale:g}"
        return [told + (f" after {stored.shift:g} was taken away" if stored.shift else "")]
    test = plan.source.test
    heldout = (
        f"{plan.heldout:g} of each class"
        if test is None
        else f"its own test split ({plural(int(test.sum()), 'image')})"
    )
    rest = "of each class" if test is None else "of each class of the others"
    return [f"held out: {heldout}; set aside for networks that evaluate: {plan.aside:g} {rest}"]
