"""What a teacher was trained on, read from the tag of its timm name, so that results can say it."""

from __future__ import annotations

IMAGENET = {"in1k", "in12k", "in21k", "in22k", "inw21k"}
TEXT = {"openai", "laion2b", "laion400m", "laiona", "datacompxl", "datacomp1b", "dfn2b", "dfn5b", "metaclip"}
TEXT |= {"metaclip2", "merged2b", "yfcc15m", "cc12m", "mclip", "mclip2", "webli", "tinyclip", "clip"}
PICTURES_ALONE = {"mae", "fcmae", "dino", "dinov3", "lvd142m", "lvd1689m", "ijepa", "mim", "seer"}


def trained_on(tag: str) -> str | None:
    """As an adjective: "ImageNet-supervised", "CLIP-pretrained and ImageNet-supervised"; None where it is not known."""
    words = set(tag.split("_"))
    found = []
    if words & TEXT:
        found.append("CLIP-pretrained")
    if words & PICTURES_ALONE:
        found.append("self-supervised")
    # labels came in where they are all there is, or in the fine-tuning that the tag names
    if words & IMAGENET and (not found or "ft" in words):
        found.append("ImageNet-supervised")
    return " and ".join(found) or None
