"""Experiment: everything that defines a run, one frozen model, written beside the weights and read back strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import yaml
from pydantic import Field, ValidationError, model_validator

from contextae.data.augment import Crop
from contextae.data.transfer import Transfer
from contextae.disk import replace_file
from contextae.encoder import EncoderConfig
from contextae.errors import UserError, nearest
from contextae.grid import Grid
from contextae.methods.cae import CAEConfig
from contextae.methods.cae_v2 import CAEv2Config
from contextae.methods.dvae import DVAEConfig
from contextae.methods.mae import MAEConfig
from contextae.named_targets import open_target
from contextae.settings import (
    CropConfig,
    DataConfig,
    HealthConfig,
    InitConfig,
    OptimizerConfig,
    Section,
    TrainingConfig,
)

METHODS = {"cae": CAEConfig, "cae_v2": CAEv2Config, "mae": MAEConfig}
AnyMethod = Annotated[CAEConfig | CAEv2Config | MAEConfig | DVAEConfig, Field(discriminator="name")]
MEASURED = {"method.target": ("method.target_sha256", "method.target_size"), "init.source": ("init.sha256",)}
"""What a start reads from the files that a setting names."""
REFERENCE_BATCH = 256  # the field states learning rates per 256 images [MAE, MoCo v3]


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
        second = getattr(self.method, "target_size", None) not in (None, self.data.image_size)
        if self.crop.where == "device" and (self.crop.colour_jitter or second):
            problems.append(
                "crop.where=device leaves no one to change colours, nor to draw a crop again for a target of another "
                f"size. Got crop.colour_jitter={self.crop.colour_jitter:g}, method.target_size="
                f"{getattr(self.method, 'target_size', None)}"
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

    def build_transfer(self, device: torch.device) -> Transfer:
        """The way of its batches to the device."""
        data = self.data
        assert data.mean and data.deviation  # measured before the first step
        return Transfer(device, data.mean, data.deviation, data.scaled_from, data.stored_as, crop_size=data.image_size)

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


def value_of(setting: str, text: str) -> Any:
    """What stands behind the = of a setting, read as YAML; `setting` is what a message names."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(
            f"The value of {setting!r} is not readable; lists are written [a, b], texts as they are."
        ) from None
    if isinstance(value, str):  # YAML 1.1 takes 1e-3 for a text, and numbers with commas between them
        try:
            numbers = [float(each) if "e" in each.lower() else yaml.safe_load(each) for each in value.split(",")]
        except (ValueError, yaml.YAMLError):
            return value
        if all(type(each) in (int, float) for each in numbers):
            return numbers if len(numbers) > 1 else numbers[0]
    return value


def named_values(settings: list[str]) -> dict[str, Any]:
    """Values of `a.b=value` by name; what is not written so, or names no setting, is refused."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"A setting is NAME=VALUE, such as training.epochs=100. Got {setting!r}.")
        _check_name(name.strip())
        values[name.strip()] = value_of(setting, value)
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
        elif item["type"] in ("tuple_type", "list_type"):
            by_setting.setdefault(name, []).append(f"a list, also one of one thing, is written [{item['input']}]")
        else:
            by_setting.setdefault(name, []).append(f"{message} (got {item['input']!r})")
    return [*(f"{name}: {', or: '.join(messages)}" for name, messages in by_setting.items()), *rules]
