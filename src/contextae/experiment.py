"""Experiment: everything that defines a run, one frozen model, written beside the weights and read back strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contextae.data.augment import Crop
from contextae.disk import replace_file
from contextae.encoder import EncoderConfig
from contextae.errors import UserError, nearest
from contextae.grid import Grid
from contextae.methods.cae import CAEConfig
from contextae.methods.cae_v2 import CAEv2Config
from contextae.methods.dvae import DVAEConfig
from contextae.named_targets import open_target

METHODS = {"cae": CAEConfig, "cae_v2": CAEv2Config}
Sources = str | tuple[str, ...]
AnyMethod = Annotated[CAEConfig | CAEv2Config | DVAEConfig, Field(discriminator="name")]
MEASURED = {"method.target": ("method.target_sha256", "method.target_size"), "init.source": ("init.sha256",)}
"""What a start reads from the files that a setting names."""
REFERENCE_BATCH = 256  # the field states learning rates per 256 images [MAE, MoCo v3]


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


class Experiment(Section):
    """A run. `read` and `write` are inverse; `with_settings` changes values by dotted name."""

    data: DataConfig
    crop: CropConfig = CropConfig()
    encoder: EncoderConfig = EncoderConfig()
    init: InitConfig = InitConfig()
    method: AnyMethod = CAEConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    health: HealthConfig = HealthConfig()

    @model_validator(mode="after")
    def _fits(self) -> Experiment:
        problems = []
        for name, bounds in (("crop.scale", self.crop.scale), ("crop.ratio", self.crop.ratio)):
            if not 0 < bounds[0] <= bounds[1]:
                problems.append(f"{name} must be two positive numbers, the smaller first. Got {list(bounds)}")
        if self.data.value_range and not self.data.value_range[0] < self.data.value_range[1]:
            problems.append(
                f"data.value_range must be two numbers, the smaller first. Got {list(self.data.value_range)}"
            )
        if self.data.exclude and self.data.manifest is None:
            problems.append(
                "data.exclude takes findings of an audit, which data.manifest (--manifest) names. Got "
                f"{', '.join(self.data.exclude)} and no manifest"
            )
        if self.crop.scale[1] > 1:
            problems.append(f"crop.scale is a share of the image's area, at most 1. Got {list(self.crop.scale)}")
        trunk = self.encoder
        if trunk.width % trunk.num_heads:
            problems.append(f"encoder.num_heads must divide encoder.width. Got {trunk.num_heads} and {trunk.width}")
        else:
            problems.extend(self.method.problems(trunk))
        if self.init.frozen_share and not self.init.source:
            problems.append(
                f"init.frozen_share needs init.source: random weights are not kept. Got {self.init.frozen_share}"
            )
        if self.training.batch_size % self.training.accumulate:
            problems.append(
                "training.accumulate must divide training.batch_size. Got "
                f"{self.training.accumulate} and {self.training.batch_size}"
            )
        try:
            self.method.check_grid(Grid(image_size=self.data.image_size, patch_size=trunk.patch_size, channels=1).size)
        except UserError as error:
            problems.append(str(error))
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def peak_lr(self) -> float:
        """Learning rate after the warm-up, scaled linearly with the batch."""
        return self.optimizer.lr_per_256_images * self.training.batch_size / REFERENCE_BATCH

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches along height and width."""
        (h, w), (p, q) = self.data.image_size, self.encoder.patch_size
        return h // p, w // q

    def build_method(self, channels: int) -> Any:
        """Freshly initialised, with what it predicts; seed torch first."""
        image_size, data = self.data.image_size, self.data
        if isinstance(self.method, DVAEConfig):
            assert data.mean and data.deviation  # measured before the first step
            return self.method.build(self.encoder, channels=channels, mean=data.mean, deviation=data.deviation)
        grid = self.encoder.grid(image_size=image_size, channels=channels)
        target = open_target(self.method, grid, mean=data.mean, deviation=data.deviation)
        return self.method.build(self.encoder, image_size=image_size, channels=channels, target=target)

    def build_views(self) -> Any:
        """What a loader worker makes of an image."""
        crop = Crop(size=self.data.image_size, **dict(self.crop))
        return self.method.build_views(crop, self.grid_size)

    def with_settings(self, settings: list[str]) -> Experiment:
        """A copy with `a.b=value` applied, values read as YAML. Unknown names are refused with the nearest one.

        What was read from a file that is named anew is open again, and a shorter training warms up for the same share.
        """
        values = named_values(settings)
        now = self.values()
        for name, measured in MEASURED.items():
            if name in values and values[name] != now.get(name):
                values = {**{other: None for other in measured if other in now}, **values}
        epochs = values.get("training.epochs")
        if isinstance(epochs, int) and 0 < epochs < self.training.epochs and "training.warmup_epochs" not in values:
            values["training.warmup_epochs"] = self.training.warmup_epochs * epochs / self.training.epochs
        return self.with_values(values, origin="--set")

    def with_values(self, values: Mapping[str, Any], *, origin: str = "settings") -> Experiment:
        """A copy with values by dotted name."""
        tree = self.model_dump(mode="json")
        other = values.get("method.name", self.method.name)
        if other != self.method.name:
            tree["method"] = {"name": other}  # settings of one method mean nothing to another: it starts from its own
        for name, value in values.items():
            _assign(tree, name, value)
        return parse(tree, origin=origin)

    def values(self) -> dict[str, Any]:
        """Every value by its dotted name."""
        tree = self.model_dump(mode="json")
        return {f"{section}.{name}": value for section, part in tree.items() for name, value in part.items()}

    def write(self, path: Path) -> None:
        """As YAML, every value written out."""
        try:
            replace_file(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False).encode())
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror}. Free space, or choose another folder with --out."
            ) from None

    @classmethod
    def read(cls, path: Path) -> Experiment:
        """From `write`'s file or one by hand; anything it does not know or that is out of range is refused."""
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"There is no experiment file at {path}. A run folder holds one as experiment.yaml."
            ) from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}. Give the path of an experiment file.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            why = " ".join(str(error).split())
            raise UserError(f"{path} is not readable as YAML: {why}. Write it anew or take a run's own.") from None
        if not isinstance(tree, dict):
            raise UserError(f"{path} must hold settings by name. It holds {type(tree).__name__}.")
        return parse(tree, origin=str(path))


def parse(tree: dict[str, Any], *, origin: str) -> Experiment:
    """An Experiment from a tree of settings, or one UserError that lists every problem in it."""
    if isinstance(tree.get("method"), dict):
        tree = {**tree, "method": {"name": CAEConfig.model_fields["name"].default, **tree["method"]}}
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        problems = _problems(error)
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise UserError(f"{origin}: {len(problems)} setting(s) cannot be used.\n{lines}") from None


def setting_names() -> list[str]:
    """Every dotted name that `--set` takes."""
    kinds = {section: [field.annotation] for section, field in Experiment.model_fields.items()}
    kinds["method"] = list(get_args(get_args(AnyMethod)[0]))
    return list(
        dict.fromkeys(
            f"{section}.{name}"
            for section, classes in kinds.items()
            for each in classes
            for name in each.model_fields  # type: ignore[union-attr]
        )
    )


def _value(setting: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(
            f"The value of {setting!r} is not readable; lists are written [a, b], texts as they are."
        ) from None
    if isinstance(value, str):  # YAML 1.1 takes 1e-3 for a text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def named_values(settings: list[str]) -> dict[str, Any]:
    """Values of `a.b=value` by name; what is not written so, or names no setting, is refused."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"A setting is NAME=VALUE, such as training.epochs=100. Got {setting!r}.")
        _check_name(name.strip())
        values[name.strip()] = _value(setting, value)
    return values


def _check_name(name: str) -> None:
    known = setting_names()
    if name not in known:
        raise UserError(
            f"There is no setting {name!r}.{nearest(name, known)} Settings are written SECTION.NAME; the sections are "
            f"{', '.join(Experiment.model_fields)}."
        )


def _assign(tree: dict[str, Any], name: str, value: Any) -> None:
    _check_name(name)
    section, _, field = name.partition(".")
    tree[section][field] = value


def _problems(error: ValidationError) -> list[str]:
    """One line for each setting, and one for each rule between settings that is broken."""
    rules: list[str] = []
    by_setting: dict[str, list[str]] = {}  # a value that may be of several kinds is refused once for each
    for item in error.errors():
        place = list(item["loc"])
        method = place.pop(1) if place[:1] == ["method"] and len(place) > 1 else None  # pydantic names the kind there
        name, message = ".".join(str(part) for part in place[:2]), item["msg"].removeprefix("Value error, ")
        if item["type"].startswith("union_tag"):
            by_setting["method.name"] = [f"{message} (got {item['input'].get('name')!r})"]
        elif item["type"] == "extra_forbidden" and name in setting_names():
            rules.append(f"method {method} has no setting {name!r}")
        elif item["type"] == "extra_forbidden":
            rules.append(f"there is no setting {name!r}.{nearest(name, setting_names())}")
        elif item["type"] == "missing":
            rules.append(f"{name} is required")
        elif not name:
            rules.extend(message.splitlines())
        else:
            by_setting.setdefault(name, []).append(f"{message} (got {item['input']!r})")
    return [*(f"{name}: {', or: '.join(messages)}" for name, messages in by_setting.items()), *rules]
