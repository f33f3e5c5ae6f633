"""Faster R-CNN and Mask R-CNN over the pyramid of a Vision Transformer, of torchvision's parts."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import generalized_box_iou_loss, roi_align

from contextae.encoder import Encoder
from contextae.errors import UserError
from contextae.evaluation.detection.anchors import Anchors, Pooling
from contextae.evaluation.detection.pyramid import PYRAMIDS, Backbone, ChannelNorm
from contextae.evaluation.detection.settings import DetectionSettings
from contextae.evaluation.trunk import Trunk
from contextae.randomness import key

TRUNK = "backbone.trunk"
"""Where it is within a `Detector`."""
MULTIPLE = 4
"""Patches along each axis of an input: what the coarsest level makes one cell of."""
BOX_SIZE, MASK_SIZE = 7, 14
"""Values along each side of a region [arXiv 1703.06870]."""


class Regions(RoIHeads):
    """torchvision's heads with the loss of the published code for boxes: generalised overlap (arXiv 1902.09630).

    It is summed over the regions that are objects and divided by the number of all, times `giou_weight`.
    """

    giou_weight: float

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if targets is not None:
            return [], self._losses(features, proposals, image_shapes, targets)
        return self._found(features, proposals, image_shapes), {}

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        regions, matched, labels, _ = self.select_training_samples(proposals, targets)
        values = self.box_head(self.box_roi_pool(features, regions, sizes))
        logits, offsets = self.box_predictor(values)
        classes = torch.cat(labels)
        objects = torch.where(classes > 0)[0]
        boxes = self.box_coder.decode(offsets.float(), regions)[objects, classes[objects]]
        wanted = torch.cat([_boxes_of(target, of) for target, of in zip(targets, matched, strict=True)])[objects]
        loss = generalized_box_iou_loss(boxes, wanted, reduction="sum") / max(1, len(classes))
        losses = {"class": F.cross_entropy(logits.float(), classes), "box": self.giou_weight * loss}
        if self.has_mask():
            inside = [torch.where(each > 0)[0] for each in labels]
            chosen = [region[of] for region, of in zip(regions, inside, strict=True)]
            which = [each[of] for each, of in zip(matched, inside, strict=True)]
            masks = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, chosen, sizes)))
            of_class = torch.cat([each[of] for each, of in zip(labels, inside, strict=True)])
            shapes = [_in_regions(target["masks"], *of) for target, *of in zip(targets, chosen, which, strict=True)]
            losses["mask"] = _mask_loss(masks[torch.arange(len(masks)), of_class].float(), torch.cat(shapes))
        return losses

    def _found(
        self, features: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        logits, offsets = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, sizes)))
        boxes, scores, labels = self.postprocess_detections(logits.float(), offsets.float(), proposals, sizes)
        found = [
            {"boxes": of, "scores": score, "labels": label}
            for of, score, label in zip(boxes, scores, labels, strict=True)
        ]
        if self.has_mask():
            masks = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, sizes)))
            for each, probabilities in zip(found, maskrcnn_inference(masks.float(), labels), strict=True):
                each["masks"] = probabilities[:, 0]
        return found


class ExactRPNHead(RPNHead):
    """Scores and offsets in float32 in any precision: bfloat16 knows no coordinate to less than a few pixels."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, offsets = super().forward(x)
        return [each.float() for each in scores], [each.float() for each in offsets]


def _boxes_of(target: dict[str, Tensor], matched: Tensor) -> Tensor:
    """The object of each region; of an image without any some box, for regions that are none."""
    boxes = target["boxes"]
    return boxes[matched] if len(boxes) else boxes.new_zeros(len(matched), 4)


def _in_regions(
    masks: UInt8[Tensor, "n h w"], regions: Float[Tensor, "r 4"], which: Int[Tensor, " r"]
) -> Float[Tensor, "r 28 28"]:
    """The mask of its object in each region, 0 to 1 at the cells of what is predicted.

    Differs from torchvision's, which reads half a pixel to the right and below.
    """
    boxes = torch.cat([which[:, None].to(regions), regions], dim=1)
    return roi_align(masks[:, None].to(regions), boxes, output_size=2 * MASK_SIZE, aligned=True)[:, 0]


def _mask_loss(logits: Float[Tensor, "r m m"], wanted: Float[Tensor, "r m m"]) -> Float[Tensor, ""]:
    """Mean over all cells; 0 without a region."""
    return F.binary_cross_entropy_with_logits(logits, wanted) if len(logits) else logits.sum()


class Detector(nn.Module):
    """`detector(images, sizes, targets)` gives the loss, `detector.find(images, sizes)` what is seen.

    Images are normalised, padded at the right and at the bottom, and their own sizes are beside them.
    """

    def __init__(self, *, backbone: Backbone, proposals: RegionProposalNetwork, regions: Regions) -> None:
        super().__init__()
        self.backbone, self.proposals, self.regions = backbone, proposals, regions

    def forward(
        self, images: Float[Tensor, "b c h w"], sizes: list[tuple[int, int]], targets: list[dict[str, Tensor]]
    ) -> Float[Tensor, ""]:
        """The sum of the losses of proposals, classes, boxes and masks, each a mean over the batch."""
        maps = self.backbone(images)
        boxes, losses = self.proposals(ImageList(images, sizes), maps, targets)
        _, more = self.regions(maps, boxes, sizes, targets)
        return torch.stack([*losses.values(), *more.values()]).sum()

    @torch.no_grad()
    def find(self, images: Float[Tensor, "b c h w"], sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Boxes n 4 (left, top, right, bottom), scores, labels from 1 on and, of 28 x 28 in the box, masks n 28 28."""
        maps = self.backbone(images)
        boxes, _ = self.proposals(ImageList(images, sizes), maps)
        found, _ = self.regions(maps, boxes, sizes)
        return cast(list[dict[str, Tensor]], found)


def build_detector(
    encoder: Encoder, *, num_classes: int, masks: bool, settings: DetectionSettings, seed: int
) -> Detector:
    """A copy of the encoder under a new pyramid and new heads, which are a function of `seed`."""
    patch = square_patch(encoder)
    size = None if settings.tile is None else (padded(settings.tile, patch),) * 2
    trunk = Trunk(encoder, image_size=size, drop_path=settings.drop_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("detector", seed))
        pyramid = PYRAMIDS[settings.pyramid](width=encoder.width, channels=settings.channels)
        return Detector(
            backbone=Backbone(trunk=trunk, pyramid=pyramid, channels=settings.channels),
            proposals=_proposals(patch, settings),
            regions=_regions(patch, num_classes, masks, settings),
        )


def square_patch(encoder: Encoder) -> int:
    """The side of its patches; UserError where they are no squares."""
    sides = set(encoder.grid.patch_size)
    if len(encoder.grid.patch_size) != 2 or len(sides) != 1:
        raise UserError(
            f"Detection needs an encoder of images with square patches, for its regions have one scale. Got patches of "
            f"{encoder.grid.patch_size}; use an encoder with square ones."
        )
    return sides.pop()


def padded(length: int, patch: int) -> int:
    """The next multiple of `MULTIPLE` patches."""
    return -(-length // (MULTIPLE * patch)) * MULTIPLE * patch


def _proposals(patch: int, settings: DetectionSettings) -> RegionProposalNetwork:
    """Thresholds and shares of torchvision, which are those of Faster R-CNN (arXiv 1506.01497)."""
    anchors = Anchors(patch=patch, scales=settings.anchor_scales, ratios=settings.anchor_ratios)
    training, testing = settings.proposals
    return RegionProposalNetwork(
        anchors,
        ExactRPNHead(settings.channels, anchors.per_cell),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=settings.anchors,
        positive_fraction=0.5,
        pre_nms_top_n={"training": training, "testing": max(testing, settings.detections)},
        post_nms_top_n={"training": training, "testing": max(testing, settings.detections)},
        nms_thresh=0.7,
    )


def _regions(patch: int, num_classes: int, masks: bool, settings: DetectionSettings) -> Regions:
    width, convolutions = settings.channels, [settings.channels] * settings.box_convolutions
    head = (
        FastRCNNConvFCHead((width, BOX_SIZE, BOX_SIZE), convolutions, [settings.box_width], norm_layer=ChannelNorm)
        if convolutions
        else TwoMLPHead(width * BOX_SIZE**2, settings.box_width)
    )
    regions = Regions(
        Pooling(BOX_SIZE, patch=patch),
        head,
        FastRCNNPredictor(settings.box_width, 1 + num_classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=settings.regions,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=settings.least_score,
        nms_thresh=settings.nms,
        detections_per_img=settings.detections,
    )
    regions.giou_weight = settings.giou_weight
    if masks:
        regions.mask_roi_pool = Pooling(MASK_SIZE, patch=patch)
        regions.mask_head = MaskRCNNHeads(width, [width] * settings.mask_convolutions, 1)
        regions.mask_predictor = MaskRCNNPredictor(width, width, 1 + num_classes)
    return regions
