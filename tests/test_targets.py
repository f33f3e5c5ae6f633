"""Pixels, HOG, codes and features: what is wanted, the loss, and the way back to something to look at."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from skimage.feature import hog as skimage_hog

from contextae.errors import UserError
from contextae.grid import Grid, patchify, unpatchify
from contextae.positions import select
from contextae.targets import HOG, VARIANCE_FLOOR, Codes, Features, Pixels, Target, raw
from contextae.tokenizers.kmeans import PatchCodebook
from networks import IMAGE, SPECTROGRAM, ColourTeacher


def images_of(patches: torch.Tensor, grid: Grid = IMAGE) -> torch.Tensor:
    return unpatchify(patches, grid)


def test_each_patch_loses_its_own_mean_and_unbiased_deviation() -> None:
    patches = 3 + 2 * torch.randn(3, 35, 30)
    wanted = Pixels(grid=IMAGE).value(images_of(patches))
    for b, n in ((0, 0), (1, 17), (2, 34)):
        patch = patches[b, n].double()
        mean = patch.sum() / 30
        variance = ((patch - mean) ** 2).sum() / 29
        expected = (patch - mean) / (variance + 1e-6).sqrt()
        torch.testing.assert_close(wanted[b, n].double(), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(wanted.var(-1), torch.ones(3, 35), atol=1e-4, rtol=0)
    assert VARIANCE_FLOOR == 1e-6


def test_statistics_are_over_all_channels_of_a_patch_together() -> None:
    patches = torch.randn(2, 35, 30)
    patches[..., :6] += 10  # the first of five channels is much brighter, and stays so
    wanted = Pixels(grid=IMAGE).value(images_of(patches))
    assert (wanted[..., :6] > wanted[..., 6:].amax(-1, keepdim=True)).all()


def test_flat_patches_stay_finite() -> None:
    wanted = Pixels(grid=IMAGE).value(torch.full((1, 5, 10, 21), 0.7))
    assert torch.isfinite(wanted).all() and wanted.abs().max() < 1e-2
    one_value = Grid(image_size=(5, 7), patch_size=(1, 1), channels=1)
    assert torch.equal(Pixels(grid=one_value).value(torch.randn(2, 1, 5, 7)), torch.zeros(2, 35, 1))


def test_raw_pixels_are_the_patches_themselves() -> None:
    patches = torch.randn(2, 35, 30)
    raw = Pixels(grid=IMAGE, normalise=False)
    assert torch.equal(raw.value(images_of(patches)), patches)
    prediction, masked = torch.randn(2, 11, 30), torch.randint(35, (2, 11))
    assert torch.equal(raw.to_patches(prediction, masked, images_of(patches), None), prediction)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_perfect_prediction_has_no_loss_and_shows_the_patches_again(normalise: bool) -> None:
    target, patches = Pixels(grid=IMAGE, normalise=normalise), 3 + 2 * torch.randn(3, 35, 30)
    masked = torch.stack([torch.randperm(35)[:11] for _ in range(3)])
    wanted = select(target.value(images_of(patches)), masked)
    assert float(target.loss(wanted, wanted)) == 0
    shown = target.to_patches(wanted, masked, images_of(patches), None)
    torch.testing.assert_close(shown, select(patches, masked), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_is_the_mean_over_all_elements_in_float32(dtype: torch.dtype) -> None:
    prediction, wanted = torch.randn(2, 5, 7).to(dtype), torch.randn(2, 5, 7).to(dtype)
    expected = (prediction.double() - wanted.double()).square().sum() / 70
    out = Pixels(grid=IMAGE).loss(prediction, wanted)
    assert out.dtype == torch.float32
    assert float(out) == pytest.approx(float(expected), rel=1e-5)


def test_its_width_is_the_number_of_values_of_a_patch() -> None:
    assert Pixels(grid=IMAGE).width == 30
    assert isinstance(Pixels(grid=IMAGE), Target)


PHOTO = Grid(image_size=(32, 48), patch_size=(16, 16), channels=3)


def test_hog_of_a_patch_is_what_scikit_image_finds_in_its_cells() -> None:
    """Of one channel, orientations not shared, which is the one setting of ours that scikit-image has not."""
    image = torch.rand(2, 3, 32, 48)
    value = HOG(grid=PHOTO).value(image).reshape(2, 6, 3, 2, 2, 9)
    # a direction: the strongest orientation of most cells is the same, however magnitudes are shared
    same = 0
    for channel in range(3):
        cells = skimage_hog(
            image[1, channel].numpy(),
            pixels_per_cell=(8, 8),
            cells_per_block=(1, 1),
            feature_vector=False,
            block_norm="L1",
        ).reshape(4, 6, 9)
        for n in range(6):
            top, left = 2 * (n // 3), 2 * (n % 3)
            for i in range(2):
                for j in range(2):
                    ours, theirs = value[1, n, channel, i, j], torch.from_numpy(cells[top + i, left + j]).float()
                    same += F.cosine_similarity(ours, theirs, dim=0) > 0.9
    assert same > 0.95 * 72


def test_hog_has_the_width_of_maskfeat_and_cells_of_unit_length() -> None:
    target = HOG(grid=PHOTO)
    assert target.width == 108
    value = target.value(torch.rand(2, 3, 32, 48)).reshape(2, 6, 12, 9)
    torch.testing.assert_close(value.norm(dim=-1), torch.ones(2, 6, 12), atol=1e-5, rtol=0)
    odd = HOG(grid=Grid(image_size=(10, 21), patch_size=(2, 3), channels=5))
    assert odd.width == 5 * 2 * 1 * 9 and odd.value(torch.rand(1, 5, 10, 21)).shape == (1, 35, 90)


def test_hog_strokes_run_along_the_edge_and_not_across() -> None:
    image = torch.zeros(1, 1, 16, 16)
    image[..., 8:] = 1  # a vertical edge in the middle, between the two columns of cells
    target = HOG(grid=Grid(image_size=(16, 16), patch_size=(16, 16), channels=1))
    drawn = target.to_patches(target.value(image), torch.zeros(1, 1, dtype=torch.long), image, None)
    picture = unpatchify(drawn, target.grid)[0, 0]
    assert picture.sum(0).max() > 3 * picture.sum(1).max()


def test_hog_refuses_what_has_no_height_and_width() -> None:
    with pytest.raises(UserError, match="needs images of two axes"):
        HOG(grid=SPECTROGRAM)


def some_codes(grid: Grid = PHOTO, patch: int = 8) -> tuple[Codes, PatchCodebook]:
    codebook = PatchCodebook(channels=3, patch_size=(patch, patch), num_codes=7)
    codebook.patches.copy_(torch.rand_like(codebook.patches))
    return Codes(num_codes=7, grid=grid, tokenizer=codebook, mean=(0.4, 0.5, 0.6), deviation=(0.2, 0.3, 0.1)), codebook


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor([0.4, 0.5, 0.6]).reshape(-1, 1, 1)) / torch.tensor([0.2, 0.3, 0.1]).reshape(-1, 1, 1)


def test_codes_are_of_the_second_view_in_raw_values() -> None:
    target, codebook = some_codes()
    wanted = torch.randint(7, (2, 6))
    second = codebook.decode(wanted, (2, 3))
    assert second.shape == (2, 3, 16, 24)
    codes = target.value(torch.randn(2, 3, 32, 48), normalised(second))
    assert torch.equal(codes.squeeze(-1), wanted)


def test_one_code_a_patch_or_a_refusal() -> None:
    """Not only as many as there are patches: a grid on its side has as many, and 23 pixels have those of 16."""
    target = some_codes()[0]
    for size in ((32, 48), (24, 16), (16, 23)):
        said = (
            rf"2 x 3 patches at 16 x 24 pixels. Got images of {size[0]} x {size[1]}; set method.target_size to \[16, 24"
        )
        with pytest.raises(UserError, match=said):
            target.value(torch.randn(2, 3, 32, 48), torch.randn(2, 3, *size))
    with pytest.raises(UserError, match=r"Got images of 32 x 48; set"):
        target.value(torch.randn(2, 3, 32, 48))


def test_cross_entropy_is_ln_of_the_codebook_where_nothing_is_known() -> None:
    target, _ = some_codes()
    loss = target.loss(torch.zeros(2, 5, 7, dtype=torch.bfloat16), torch.randint(7, (2, 5, 1)))
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(torch.tensor(7.0).log().item(), rel=1e-6)


def test_predicted_codes_are_drawn_among_the_codes_of_visible_patches() -> None:
    target, codebook = some_codes(patch=16)
    wanted = torch.randint(7, (2, 6))
    images = codebook.decode(wanted, (2, 3))
    masked = torch.tensor([[0, 4], [5, 2]])
    right = F.one_hot(wanted.gather(1, masked), 7).float()
    drawn = target.to_patches(right, masked, normalised(images), None)
    expected = select(patchify(normalised(images), PHOTO), masked)
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=0)


def test_without_the_tokenizer_or_teacher_it_says_so() -> None:
    with pytest.raises(UserError, match="the tokenizer that gives them is not here"):
        Codes(num_codes=7, grid=PHOTO).value(torch.randn(1, 3, 32, 48))
    with pytest.raises(UserError, match="the teacher that gives them is not here"):
        Features(width=7, grid=PHOTO).tokens(torch.randn(1, 3, 32, 48))


def test_codes_without_a_decoder_are_not_drawn() -> None:
    class Bare:
        num_codes, channels = 7, 3

        def to(self, device: torch.device) -> object:
            return self

        def codes(self, images: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(images), 6, dtype=torch.long)

        def input_size(self, grid: tuple[int, int]) -> tuple[int, int]:
            return grid

    target = Codes(num_codes=7, grid=PHOTO, tokenizer=Bare(), mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
    with pytest.raises(UserError, match="Bare has no decoder, so its codes cannot be drawn"):
        target.to_patches(torch.randn(1, 2, 7), torch.tensor([[0, 1]]), torch.randn(1, 3, 32, 48), None)


def test_features_are_of_raw_values_the_whole_image_first() -> None:
    target = Features(width=9, grid=PHOTO, teacher=ColourTeacher(), mean=(0.4, 0.5, 0.6), deviation=(0.2, 0.3, 0.1))
    images = torch.rand(2, 3, 32, 48)
    tokens = target.tokens(normalised(images))
    torch.testing.assert_close(tokens[:, 0, :3], images.mean((2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens[:, 5, :3], images[:, :, 16:, 16:32].mean((2, 3)), atol=1e-5, rtol=0)
    assert torch.equal(target.value(normalised(images)), tokens[:, 1:])
    torch.testing.assert_close(raw(normalised(images), (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)), images, atol=1e-6, rtol=0)


def test_features_are_scored_by_their_direction_alone() -> None:
    target, wanted = Features(width=3, grid=PHOTO), torch.randn(2, 5, 3)
    assert float(target.loss(3 * wanted, wanted)) == pytest.approx(0, abs=1e-6)
    assert float(target.loss(-wanted, wanted)) == pytest.approx(2, abs=1e-6)
    many = torch.randn(2, 100, 512), torch.randn(2, 100, 512)
    assert float(target.loss(*many)) == pytest.approx(1, abs=0.02)
    with pytest.raises(UserError, match="Predicted features are no pixels"):
        target.to_patches(wanted, torch.zeros(2, 5, dtype=torch.long), torch.randn(2, 3, 32, 48), None)
