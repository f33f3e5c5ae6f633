"""Average precision is that of pycocotools, and resampled images give what doubled images would."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.evaluation.detection.made import HEIGHT, WIDTH, random_detections, random_objects

from contextae.errors import UserError
from contextae.evaluation.detection.matching import Kind, box_iou, mask_iou, match
from contextae.evaluation.detection.metrics import AveragePrecision, average_precision, interval, resampled
from contextae.evaluation.detection.objects import Detections, Mask, Objects, no_objects
from contextae.randomness import key

CLASSES = 4


def made(seed: int, num_images: int = 12) -> tuple[list[Objects], list[Detections]]:
    """The last class is never an object's, though it is found; some images are empty."""
    rng = np.random.default_rng(seed)
    objects = [random_objects(rng, CLASSES - 1) for _ in range(num_images)]
    return objects, [random_detections(rng, each, CLASSES) for each in objects]


def of(objects: list[Objects], found: list[Detections], kind: Kind = "box", most: int = 100) -> Any:
    truth = [(each, HEIGHT, WIDTH) for each in objects]
    return match(truth, found, num_classes=CLASSES, kind=kind, max_detections=most)


def by_pycocotools(objects: list[Objects], found: list[Detections], kind: Kind, most: int) -> AveragePrecision:
    coco_module, coco_eval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    encode = pytest.importorskip("pycocotools.mask").encode

    def runs(mask: Mask) -> dict[str, Any]:
        return encode(np.asfortranarray(mask.part(0, 0, HEIGHT, WIDTH).astype(np.uint8)))

    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for i, (each, detections) in enumerate(zip(objects, found, strict=True), start=1):
        assert each.shapes is not None and detections.masks is not None
        for j, shape in enumerate(each.shapes):
            assert isinstance(shape, Mask)
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": i,
                    "category_id": int(each.classes[j]) + 1,
                    "bbox": each.boxes[j].tolist(),
                    "area": float(each.area[j]),
                    "iscrowd": int(each.crowd[j]),
                    "segmentation": runs(shape),
                }
            )
        for j, mask in enumerate(detections.masks):
            place = {"bbox": detections.boxes[j].tolist()} if kind == "box" else {"segmentation": runs(mask)}
            of_class = int(detections.classes[j]) + 1
            results.append({"image_id": i, "category_id": of_class, "score": float(detections.scores[j]), **place})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO()
        coco.dataset = {
            "images": [{"id": i + 1, "height": HEIGHT, "width": WIDTH} for i in range(len(objects))],
            "annotations": truth,
            "categories": [{"id": i + 1, "name": str(i)} for i in range(CLASSES)],
        }
        coco.createIndex()
        evaluation = coco_eval.COCOeval(coco, coco.loadRes(results), "bbox" if kind == "box" else "segm")
        evaluation.params.maxDets = [1, 2, most]  # they are sorted
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 2]  # overlaps recalls classes sizes

    def mean(values: np.ndarray) -> float | None:
        return float(values[values > -1].mean()) if (values > -1).any() else None

    return AveragePrecision(
        ap=mean(precision[..., 0]),
        ap50=mean(precision[0, :, :, 0]),
        ap75=mean(precision[5, :, :, 0]),
        small=mean(precision[..., 1]),
        medium=mean(precision[..., 2]),
        large=mean(precision[..., 3]),
        per_class=tuple(mean(precision[:, :, k, 0]) for k in range(CLASSES)),
    )


def assert_equal(ours: AveragePrecision, theirs: AveragePrecision) -> None:
    for name in ("ap", "ap50", "ap75", "small", "medium", "large"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-9), name
    assert ours.per_class == pytest.approx(theirs.per_class, abs=1e-9)


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize(("seed", "most"), [(0, 100), (1, 100), (2, 3), (3, 100)])
def test_average_precision_is_that_of_pycocotools(kind: Kind, seed: int, most: int) -> None:
    objects, found = made(seed)
    ours = average_precision(of(objects, found, kind, most))
    assert_equal(ours, by_pycocotools(objects, found, kind, most))
    assert ours.ap is not None and 0.1 < ours.ap < 0.9
    assert ours.per_class[-1] is None
    assert any(each.crowd.any() for each in objects)


@pytest.mark.parametrize("seed", range(4, 16))
def test_boxes_of_more_random_sets_too(seed: int) -> None:
    objects, found = made(seed, num_images=6)
    assert_equal(average_precision(of(objects, found)), by_pycocotools(objects, found, "box", 100))


def test_equal_overlaps_and_equal_boxes_are_taken_as_pycocotools_takes_them() -> None:
    def objects(boxes: list[list[float]], crowd: list[bool]) -> Objects:
        masks = [Mask(int(b[1]), int(b[0]), np.ones((int(b[3]), int(b[2])), bool)) for b in boxes]
        return Objects(
            boxes=np.array(boxes, np.float64),
            classes=np.zeros(len(boxes), np.int64),
            crowd=np.array(crowd),
            area=np.array([float(mask.area) for mask in masks]),
            shapes=tuple(masks),
        )

    truth = [
        objects([[10, 10, 20, 20], [10, 10, 20, 20], [14, 10, 20, 20], [0, 0, 100, 100]], [False, False, False, True]),
        objects([[5, 5, 40, 40], [25, 5, 40, 40]], [False, True]),
    ]
    found = []
    for each, scores in zip(truth, ([0.5, 0.5, 0.5, 0.9], [0.5, 0.7]), strict=True):
        assert each.shapes is not None
        masks = tuple(shape for shape in each.shapes if isinstance(shape, Mask))
        found.append(Detections(boxes=each.boxes, scores=np.array(scores), classes=each.classes, masks=masks))
    for kind in ("box", "mask"):
        assert_equal(average_precision(of(truth, found, kind)), by_pycocotools(truth, found, kind, 100))


def test_a_perfect_answer_is_1_none_is_0_and_nothing_to_find_is_no_figure() -> None:
    objects, _ = made(0)
    plain = [Objects(boxes=o.boxes, classes=o.classes, crowd=np.zeros(len(o), bool), area=o.area) for o in objects]
    perfect = [Detections(boxes=o.boxes, scores=np.ones(len(o)), classes=o.classes) for o in plain]
    nothing = [Detections(boxes=np.zeros((0, 4)), scores=np.zeros(0), classes=np.zeros(0, np.int64)) for _ in plain]
    assert average_precision(of(plain, perfect)).ap == 1
    assert average_precision(of(plain, nothing)).ap == 0
    empty = average_precision(of([no_objects(False)] * len(perfect), perfect))
    assert (empty.ap, empty.large) == (None, None) and empty.per_class == (None,) * CLASSES


def test_many_objects_need_more_detections_than_a_hundred() -> None:
    boxes = np.array([[x, y, 6.0, 6.0] for x in range(0, 130, 8) for y in range(0, 80, 8)])
    objects = Objects(boxes=boxes, classes=np.zeros(170, np.int64), crowd=np.zeros(170, bool), area=np.full(170, 36.0))
    found = Detections(boxes=boxes, scores=np.linspace(1, 0.1, 170), classes=objects.classes)
    hundred, all_of_them = (average_precision(of([objects], [found], most=most)).ap for most in (100, 400))
    assert hundred == pytest.approx(59 / 101) and all_of_them == 1


def test_overlaps_by_brute_force() -> None:
    rng = np.random.default_rng(5)
    one, other = random_objects(rng, 2, most=30), random_objects(rng, 2, most=30)
    assert one.shapes is not None and other.shapes is not None and len(one) > 3 < len(other)
    masks, others = list(one.shapes), list(other.shapes)
    grids, others_grids = (
        [m.part(0, 0, HEIGHT, WIDTH) for m in each if isinstance(m, Mask)] for each in (masks, others)
    )
    wanted = np.array([[(a & b).sum() / (a | b).sum() for b in others_grids] for a in grids])
    in_crowds = np.array([[(a & b).sum() / a.sum() for b in others_grids] for a in grids])
    assert mask_iou(masks, others) == pytest.approx(wanted)  # type: ignore[arg-type]
    crowd = np.arange(len(other)) % 2 == 0
    found = mask_iou(masks, others, crowd)  # type: ignore[arg-type]
    assert found == pytest.approx(np.where(crowd, in_crowds, wanted))
    assert box_iou(np.array([[0.0, 0, 4, 2]]), np.array([[2.0, 1, 4, 2], [4, 0, 1, 1]])).tolist() == [[2 / 14, 0]]


def test_a_resample_is_the_average_precision_of_the_drawn_images() -> None:
    objects, tied = made(1)
    rng = np.random.default_rng(1)  # of equal scores in one image the copies would come in another order
    found = [replace(each, scores=rng.random(len(each))) for each in tied]
    matches = of(objects, found)
    got = resampled(matches, resamples=5, seed=3)
    drawn = np.random.default_rng(key("bootstrap", 3)).multinomial(12, np.full(12, 1 / 12), size=5)
    for row, counts in enumerate(drawn):
        chosen = np.repeat(np.arange(12), counts).tolist()
        again = average_precision(of([objects[i] for i in chosen], [found[i] for i in chosen]))
        assert got["AP"][row] == pytest.approx(again.ap, abs=1e-12)
        assert got["AP50"][row] == pytest.approx(again.ap50, abs=1e-12)


def test_intervals_hold_the_figure_and_pairs_are_drawn_alike() -> None:
    objects, found = made(2, num_images=40)
    worse = [
        Detections(boxes=f.boxes, scores=f.scores, classes=f.classes, masks=f.masks) if i % 4 else found[0]
        for i, f in enumerate(found)
    ]
    one, other = (resampled(of(objects, each), resamples=300) for each in (found, worse))
    low, high = interval(one["AP"])
    ap = average_precision(of(objects, found)).ap
    assert ap is not None and low < ap < high and high - low > 0.02
    paired = interval(one["AP"] - other["AP"])
    assert paired[0] > 0 and paired[1] - paired[0] < (high - low) * 1.5
    assert (resampled(of(objects, found), resamples=300)["AP"] == one["AP"]).all()


def test_no_images_have_no_interval() -> None:
    with pytest.raises(UserError, match="at least one image and one class"):
        resampled(of([], []))
