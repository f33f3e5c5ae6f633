"""The sections of an experiment that every method has, each a frozen model; with the method's own they are a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Sources = str | tuple[str, ...]
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Frozen; a key it does not know and a number that is not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """What is trained on, and how its values become numbers."""

    source: Sources = Field(
        ...,
        description="folder, file list, Parquet, archive, array or builtin:NAME; several as a list, each with =WEIGHT",
    )
    image_size: tuple[int, int] = Field((224, 224), description="(height, width) the network sees, in pixels")
    channels: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="a number, or auto: what the images have, where they agree"
    )
    dtype: Literal["auto", "uint8", "uint16", "float32"] = Field(
        "auto", description="of their values; auto: what the images have, where they agree"
    )
    value_range: tuple[float, float] | None = Field(
        None, description="values that become 0 and 1; null: 0 and 255 of 8 bits, otherwise measured"
    )
    mean: tuple[float, ...] | None = Field(None, description="per channel, of values in 0..1; null: measured")
    deviation: tuple[Positive, ...] | None = Field(None, description="per channel, of values in 0..1; null: measured")
    manifest: str | None = Field(None, description="of an audit: its statistics, and without what it found unreadable")
    exclude: tuple[str, ...] = Field((), description="findings of that audit whose images are left out as well")
    max_bad_share: float = Field(0.05, gt=0, le=1, description="share of unreadable images at which a run stops")

    @property
    def stored_as(self) -> str:
        """The type of the images' values; runs that do not say so are of 8 bits."""
        return "uint8" if self.dtype == "auto" else self.dtype

    @property
    def scaled_from(self) -> tuple[float, float]:
        """The values that become 0 and 1, as above."""
        return self.value_range or (0.0, 255.0)


class CropConfig(Section):
    """The random crop that one image becomes."""

    kind: Literal["resized", "tile"] = Field(
        "resized", description="a part of random size, resized; or a tile of image_size as it is, of very large images"
    )
    scale: tuple[float, float] = Field((0.2, 1.0), description="share of the image's area, least and most")
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="aspect over the network's own aspect")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    where: Literal["workers", "device"] = Field(
        "workers", description="who resizes, flips: loader processes; or the device, where these cannot keep up"
    )
    colour_jitter: float = Field(0.0, ge=0, lt=1, description="brightness, contrast, saturation: 1 - it to 1 + it")


class InitConfig(Section):
    """What the encoder starts from, instead of random weights."""

    source: str | None = Field(None, description="timm:NAME, timm:NAME=FILE, timm:FOLDER, run or weights file")
    sha256: str | None = Field(None, description="of those weights; null: read at the start")
    frozen_share: float = Field(0.0, ge=0, lt=1, description="of the steps in which the other parts alone are trained")


class OptimizerConfig(Section):
    """AdamW; what has one dimension is not decayed."""

    lr_per_256_images: float = Field(1.875e-4, gt=0, description="peak [released recipe: 1.5e-3 for 2048]")
    final_lr_share: float = Field(1e-5 / 1.5e-3, ge=0, le=1, description="last over peak [released recipe: 1e-5]")
    weight_decay: float = Field(0.05, ge=0, description="[released recipe]")
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="[released recipe]")
    clip_norm: float = Field(3.0, gt=0, description="largest global gradient norm [released recipe]")
    layer_decay: float = Field(1.0, gt=0, le=1, description="rate of an encoder block over that of the one above it")


class TrainingConfig(Section):
    """How long, how much at a time, and what is counted from."""

    epochs: int = Field(300, ge=1, description="passes over the images")
    warmup_epochs: float = Field(10.0, ge=0, description="linear rise of the learning rate")
    batch_size: int = Field(256, ge=1, description="images per step over all processes and accumulations")
    accumulate: int = Field(1, ge=1, description="parts a step's images are split into, to save memory")
    seed: int = Field(0, ge=0, lt=2**63, description="order, crops, masks and initial weights are functions of it")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: what this device is fast in")
    workers: int | None = Field(None, ge=0, description="loader processes; null: by number of cores")
    save_minutes: float = Field(10.0, gt=0, description="time between checkpoints")
    keep_checkpoints: int = Field(3, ge=1, description="newest checkpoints kept, beside the best")
    log_steps: int = Field(10, ge=1, description="steps between lines of log.jsonl")


class HealthConfig(Section):
    """The label-free check while training."""

    every_epochs: int = Field(1, ge=1, description="epochs between checks")
    images: int = Field(512, ge=16, description="images it looks at, the same ones each time")
    probes: tuple[Literal["knn", "linear", "attentive", "ridge"], ...] = Field(
        ("knn",), min_length=1, description="with --labelled: how its images are classified by the frozen encoder"
    )
