"""What kind of image a set becomes: photographs become gray or RGB together, everything else must be of one kind."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from contextae.data.facts import Refusal
from contextae.data.index import EXAMPLES, LeftOut, printable
from contextae.data.sources.listing import Listing
from contextae.errors import UserError

Channels = int | Literal["auto"]
Dtype = str
"auto, uint8, uint16 or float32; `check_wanted` refuses others."
DTYPES = ("uint8", "uint16", "float32")
AUTO = "auto"


class Chosen(NamedTuple):
    """What all images are decoded to, which of the list these are, and what is left out for being of another kind."""

    channels: int
    dtype: str
    used: np.ndarray
    left_out: list[LeftOut]


class Group(NamedTuple):
    """Images that become one kind: their positions, channels and type. Of photographs either number of channels."""

    places: np.ndarray
    channels: tuple[int, ...]
    dtype: str


def check_wanted(channels: Channels, dtype: Dtype) -> None:
    """Refuses what no image can be."""
    if channels != AUTO and (not isinstance(channels, int) or channels < 1):
        raise UserError(f"data.channels is a number of channels, 1 or more, or auto. Got {channels}.")
    if dtype != AUTO and dtype not in DTYPES:
        raise UserError(f"data.dtype is auto or one of {', '.join(DTYPES)}. Got {dtype}.")


def choose_kind(
    listing: Listing, facts: np.ndarray, bad: dict[int, Refusal], *, channels: Channels, dtype: Dtype
) -> Chosen:
    """With everything open, a set of several kinds is refused with its counts: none is left out unasked.

    With `channels` or `dtype` given, what can become that is used and the rest is left out by name.
    """
    usable = np.array([i for i in range(len(listing.ids)) if i not in bad], dtype=np.int64)
    groups = grouped(facts, usable)
    free = channels == AUTO and dtype == AUTO
    fitting = [
        group for group in groups if (channels == AUTO or channels in group.channels) and dtype in (AUTO, group.dtype)
    ]
    if len(fitting) != 1 or (free and any(refused.sound for refused in bad.values())):
        raise UserError(_refusal(listing, facts, bad, usable, fitting=len(fitting), channels=channels, dtype=dtype))
    (group,) = fitting
    others = np.setdiff1d(usable, group.places)
    wanted = f"{'another number of channels' if channels != AUTO else 'another type'} than asked for"
    left_out = [LeftOut(listing.ids[i], f"{facts['kind'][i].decode()}, {wanted}") for i in others.tolist()]
    return Chosen(decided(facts[group.places], channels, group), group.dtype, group.places, left_out)


def grouped(facts: np.ndarray, usable: np.ndarray) -> list[Group]:
    """Photographs together; of the rest those of one number of channels and one type."""
    photograph = facts["photograph"][usable]
    groups = [Group(usable[photograph], (1, 3), "uint8")] if photograph.any() else []
    rest = usable[~photograph]
    for channels, dtype in np.unique(facts[["channels", "dtype"]][rest]).tolist():
        same = (facts["channels"][rest] == channels) & (facts["dtype"][rest] == dtype)
        groups.append(Group(rest[same], (channels,), dtype.decode()))
    return groups


def decided(facts: np.ndarray, channels: Channels, group: Group) -> int:
    """Of photographs one channel where every image is gray, else three."""
    if isinstance(channels, int):
        return channels
    if len(group.channels) == 1:
        return group.channels[0]
    return 1 if (facts["channels"] == 1).all() else 3


def _refusal(
    listing: Listing,
    facts: np.ndarray,
    bad: dict[int, Refusal],
    usable: np.ndarray,
    *,
    fitting: int,
    channels: Channels,
    dtype: Dtype,
) -> str:
    by_kind: dict[str, list[int]] = {}
    for i in usable.tolist():
        by_kind.setdefault(facts["kind"][i].decode(), []).append(i)
    for i, refused in bad.items():
        if refused.sound:
            by_kind.setdefault(refused.reason, []).append(i)
    lines = []
    for kind, places in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        named = ", ".join(printable(listing.ids[i]) for i in places[:EXAMPLES])
        lines.append(f"  {len(places):,} {kind}: {named}{', ...' if len(places) > EXAMPLES else ''}")
    counts = "\n".join(lines)
    if not fitting:
        asked = " and ".join(
            f"data.{name}={value}" for name, value in (("channels", channels), ("dtype", dtype)) if value != AUTO
        )
        return (
            f"{listing.title} holds no image that fits {asked}. There are\n{counts}\nAsk for what is there, or give "
            "other images."
        )
    return (
        f"{listing.title} mixes kinds of images that cannot become one. Gray, palette, RGB and CMYK of 8 bits, with or "
        f"without alpha, become RGB together; images of another depth or number of channels must all be alike. There "
        f"are\n{counts}\nMove all but one kind to another folder, or choose one: --set data.channels=NUMBER, --set "
        f"data.dtype={' or '.join(DTYPES)}."
    )
