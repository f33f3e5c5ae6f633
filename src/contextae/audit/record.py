"""AuditRecord: everything an audit says, in numbers and words, frozen, to JSON and back."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FORMAT = 1  # also below, for type checkers
Size = tuple[int, int]
"Height and width in pixels."


class Part(BaseModel):
    """Frozen; what it does not know and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Reason(Part):
    """Why some are not used. Examples are printable names, and none where paths are not to be shown."""

    reason: str
    count: int
    examples: list[str]


class Finding(Part):
    """Images that are used unless `pretrain --exclude` names this; `name` is also that of the lines in the lists."""

    name: str
    words: str
    count: int
    examples: list[str]


class Counted(Part):
    """Of the images that can be used, how many are such."""

    words: str
    count: int


class Kind(Part):
    """Images that become one kind together, and what their values are, over all that decode, each counting the same.

    `value_range` are the values that become 0 and 1, of which mean and deviation are. The hashes are of the names of
    these images in their order, and of their sizes in bytes.
    """

    photograph: bool
    channels: int
    dtype: str
    count: int
    value_range: tuple[float, float]
    mean: list[float]
    deviation: list[float]
    names_sha256: str
    sizes_sha256: str

    @property
    def form(self) -> tuple[int, str]:
        """What settings of a training ask for."""
        return self.channels, self.dtype


class Bin(Part):
    """Of a histogram: values from `low` to below `high`."""

    low: float
    high: float
    count: int


class Sizes(Part):
    """Of the images of the kind that is used; median height and median width need not be of one image."""

    smallest: Size
    median: Size
    largest: Size
    num_bytes: int
    longest_sides: list[Bin]
    ratios: list[Bin]
    "Width over height, by factors of two and their halves."


class Speed(Part):
    """Of this machine while it looked. `images_per_second` is one process's, reading and decoding only."""

    images_per_second: float
    read_milliseconds: float
    decode_milliseconds: float
    seconds: float


class Against(Part):
    """How much of the audited set another one holds too: images of this one, and of the other one."""

    title: str
    found: int
    used: int
    complete: bool
    exact: int
    near: int
    other_exact: int
    other_near: int


class Recipe(Part):
    """What `presets.choose` makes of the number and size of the images, and of the device; `reason` is its own."""

    image_size: Size
    patch_size: Size
    batch_size: int
    epochs: int
    width: int
    depth: int
    reason: str


class Suggestion(Recipe):
    """What to begin with: a command, empty where none would be taken, and further sentences."""

    command: str
    notes: list[str]


class ListFile(Part):
    """A file of JSON lines beside the manifest."""

    lines: int
    sha256: str


class AuditRecord(Part):
    """`found` = `used` + those of `left_out` + those not `seen`, which are none unless it was interrupted.

    The first of `kinds` is the one that is used; sizes, findings and traits are of its images.
    """

    format: Literal[1] = 1
    versions: dict[str, str]
    source: str | None
    title: str
    complete: bool
    found: int
    seen: int
    used: int
    left_out: list[Reason]
    kinds: list[Kind]
    unsupported: bool
    "Some are sound and of a kind that is not read, so that a training wants to be told what to use."
    formats: dict[str, int]
    traits: list[Counted]
    findings: list[Finding]
    near_complete: bool
    sizes: Sizes | None
    speed: Speed | None
    against: Against | None = None
    suggestion: Suggestion | None = None
    notes: list[str]
    lists: dict[str, ListFile] = {}

    def finding(self, name: str) -> int:
        """Images counted under that name."""
        return next((each.count for each in self.findings if each.name == name), 0)

    @property
    def mixed(self) -> bool:
        """A training refuses the set unless it is told what to use."""
        return len(self.kinds) > 1 or self.unsupported

    @property
    def alike(self) -> list[Kind]:
        """Other kinds with the channels and type of the one that is used, from which no setting tells it."""
        return [kind for kind in self.kinds[1:] if kind.form == self.kinds[0].form]
