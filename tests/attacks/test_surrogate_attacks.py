"""TAP, SEP, EM and REM: what they optimize, what they promise, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydvae.attacks.base import Attack, apply, measure
from raydvae.attacks.configs import EMConfig, NTGAConfig, REMConfig, SEPConfig, SurrogateConfig, TAPConfig
from raydvae.attacks.em import EM, ClassNoise, EMTask, class_descent, craft_class_noise
from raydvae.attacks.ntga import NTGA
from raydvae.attacks.pgd import project, sign_descent
from raydvae.attacks.rem import REM, REMTask, inner_attack
from raydvae.attacks.sep import SEP, ClassFeatures
from raydvae.attacks.surrogate import SURROGATES, SurrogateTask, build_surrogate
from raydvae.attacks.tap import TAP
from raydvae.attacks.transforms import RowDraws, draw_view
from raydvae.errors import ConfigError, DataError
from raydvae.models.classifiers import SmallNet
from raydvae.seeds import derive
from raydvae.training.feed import ImageSet
from raydvae.training.loop import TrainState, train

SIZE, CLASSES, FEATURES = 8, 3, 32
SMALL = SurrogateConfig(model="small", width=4, steps=4, batch_size=16, crop_padding=1, slices=2)
MakeAttack = Callable[[float], Attack]


def net(seed: int = 0) -> SmallNet:
    """A surrogate in double precision: no sign of a gradient hangs on how a batch was computed.

    Its running statistics are those of noise images, so that the signal does not die out on the way through.
    """
    torch.manual_seed(seed)
    model = SmallNet(CLASSES, width=4).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(64, 3, SIZE, SIZE, dtype=torch.float64))
    return model


def rows_of(seed: int, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8), rng.integers(0, CLASSES, count)


def class_means(models: Sequence[torch.nn.Module]) -> list[Tensor]:
    images, _ = rows_of(9, 12)
    out = []
    for model in models:
        features = ClassFeatures.empty(CLASSES, FEATURES)
        features.update(model, images, np.arange(12) % CLASSES)
        out.append(features.means())
    return out


def make_sep(norm: float, variant: str, means: str = "own") -> SEP:
    models = [net(1), net(2)]
    config = SEPConfig(
        norm=norm,
        variant=variant,
        checkpoints=2,
        steps=3,
        inner_steps=3,
        class_means=means,  # type: ignore[arg-type]
    )
    return SEP(config, models, CLASSES, class_means(models) if variant != "plain" else ())


def make_class_noise(norm: float) -> ClassNoise:
    config = EMConfig(norm=norm, wise="class", surrogate=SMALL, steps=2)
    images, _ = rows_of(5, 9)
    return ClassNoise(config, craft_class_noise(config, net(), images, np.arange(9) % CLASSES, CLASSES))


def make_ntga(norm: float) -> NTGA:
    return NTGA(NTGAConfig(norm=norm, depth=2, steps=3), *rows_of(6), CLASSES)


ATTACKS: dict[str, MakeAttack] = {
    "tap": lambda norm: TAP(TAPConfig(norm=norm, steps=4, step=norm / 4, surrogate=SMALL), net(), CLASSES),
    "em": lambda norm: EM(EMConfig(norm=norm, steps=3, surrogate=SMALL), net()),
    "em-view": lambda norm: EM(EMConfig(norm=norm, steps=3, view="augmented", surrogate=SMALL), net()),
    "em-class": make_class_noise,
    "rem": lambda norm: REM(REMConfig(norm=norm, steps=2, draws=2, inner_steps=2, surrogate=SMALL), net()),
    "sep": lambda norm: make_sep(norm, "plain"),
    "sep-fa": lambda norm: make_sep(norm, "fa"),
    "sep-fa-vr": lambda norm: make_sep(norm, "fa-vr"),
    "sep-fa-vr-last": lambda norm: make_sep(norm, "fa-vr", "last"),
    "ntga": make_ntga,
}
three_labels = st.lists(st.integers(0, CLASSES - 1), min_size=3, max_size=3)


@pytest.mark.parametrize("name", ATTACKS)
@given(seed=st.integers(0, 2**32), extreme=st.booleans(), labels=three_labels, norm=st.sampled_from([8, 16, 0.4]))
@settings(max_examples=8, deadline=None)
def test_stored_bytes_keep_the_bound(name: str, seed: int, extreme: bool, labels: list[int], norm: float) -> None:
    attack = ATTACKS[name](norm / 255)
    images = rows_of(seed, 3)[0]
    if extreme:
        images = (images > 127).astype(np.uint8) * 255
    noise = attack.noise(images, np.array(labels), [f"rows#{seed + place}" for place in range(3)])
    assert noise.dtype == np.float32
    poisoned = apply(images, noise, attack.bound)
    assert measure((poisoned.astype(float) - images) / 255, "linf").max() <= norm / 255 * (1 + 1e-9)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "ntga"])
def test_a_row_has_the_same_noise_in_any_company(name: str) -> None:
    attack = ATTACKS[name](8 / 255)
    images, labels = rows_of(0, 5)
    ids = [f"file#{row}" for row in range(5)]
    together = attack.noise(images, labels, ids)
    order = [3, 1]
    apart = attack.noise(images[order], labels[order], [ids[row] for row in order])
    np.testing.assert_allclose(together[order], apart, atol=1e-7)
    assert np.abs(together).max() > 2.9 / 255  # not equal for being nothing


def loss_towards(model: torch.nn.Module, images: np.ndarray, noise: np.ndarray, targets: np.ndarray) -> float:
    x = torch.from_numpy(images / 255 + noise.astype(np.float64)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return float(F.cross_entropy(model.eval()(x), torch.from_numpy(targets)))


@pytest.mark.parametrize(("name", "shift"), [("tap", 1), ("em", 0), ("em-class", 0), ("rem", 0), ("sep", 1)])
def test_noise_lowers_the_loss_it_is_meant_to(name: str, shift: int) -> None:
    images, labels = rows_of(5, 9) if name == "em-class" else rows_of(2, 9)
    labels = np.arange(9) % CLASSES
    noise = ATTACKS[name](8 / 255).noise(images, labels, [str(row) for row in range(9)])
    model = net(1) if name == "sep" else net()
    targets = (labels + shift) % CLASSES
    assert loss_towards(model, images, noise, targets) < loss_towards(model, images, 0 * noise, targets)


def test_projection_is_the_nearest_allowed_noise() -> None:
    x = torch.tensor([0.0, 0.02, 0.5, 0.5, 0.99, 1.0])
    delta = torch.tensor([-0.5, -0.03, 0.01, 0.9, 0.02, 0.0])
    expected = torch.tensor([0.0, -0.02, 0.01, 0.1, 0.01, 0.0])
    torch.testing.assert_close(project(delta, x, 0.1), expected)


def test_sign_steps_are_those_of_a_loop_over_pixels() -> None:
    x = np.array([0.5, 0.05, 0.9, 0.3])
    goal = np.array([0.45, 0.9, 0.2, 0.3])
    value = np.zeros(4)
    for _ in range(7):
        for i in range(4):
            value[i] -= 0.03 * np.sign(x[i] + value[i] - goal[i])
            value[i] = min(max(value[i], -0.1), 0.1)
            value[i] = min(max(x[i] + value[i], 0.0), 1.0) - x[i]
    found = sign_descent(
        lambda at: at - torch.from_numpy(goal), torch.from_numpy(x), torch.zeros(4, dtype=torch.float64), 0.1, 0.03, 7
    )
    np.testing.assert_allclose(found.numpy(), value, atol=1e-12)


def test_sep_fa_gradient_is_that_of_each_image_by_itself() -> None:
    attack = make_sep(8 / 255, "fa")
    images, _ = rows_of(3, 3)
    targets = torch.tensor([2, 0, 1])
    x = torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255
    model = attack.surrogates[0]
    for row in range(3):
        single = x[row : row + 1].clone().requires_grad_()
        feature = model.features(single).mean(dim=(2, 3))[0]  # type: ignore[operator]
        loss = sum(
            ((feature[d] - attack.class_means[0][targets[row], d]) ** 2 / FEATURES for d in range(FEATURES)),
            torch.zeros(()),
        )
        loss.backward()
        torch.testing.assert_close(attack.gradient(0, x, targets)[row], single.grad[0], rtol=1e-9, atol=1e-14)


def test_variance_reduction_is_none_for_one_checkpoint_and_the_published_means_differ() -> None:
    images, labels = rows_of(4)
    ids = list("abcd")
    own, last = (make_sep(8 / 255, "fa-vr", means).noise(images, labels, ids) for means in ("own", "last"))
    assert not np.array_equal(own, last)
    model = [net(1)]
    configs = [
        SEPConfig(variant=variant, checkpoints=1, steps=4, inner_steps=1)  # type: ignore[arg-type]
        for variant in ("fa", "fa-vr")
    ]
    plain, reduced = (SEP(config, model, CLASSES, class_means(model)).noise(images, labels, ids) for config in configs)
    assert np.array_equal(plain, reduced)


def test_variance_reduced_steps_are_those_of_the_published_loop() -> None:
    attack = make_sep(8 / 255, "fa-vr")
    config = attack.config
    images, labels = rows_of(4)
    x = torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255
    targets = torch.from_numpy((labels + 1) % CLASSES)
    current = x.clone()

    def step(point: Tensor, direction: Tensor) -> Tensor:
        moved = point - direction.sign() / 255
        return torch.minimum(torch.maximum(moved, x - 8 / 255), x + 8 / 255).clamp(0, 1)

    for outer in range(config.steps):
        each = [attack.gradient(index, current, targets) for index in (0, 1)]
        mean, inner, direction = (each[0] + each[1]) / 2, current, torch.zeros_like(x)
        generator = torch.Generator().manual_seed(derive(config.seed, "sep", outer))
        for _ in range(config.inner_steps):
            index = int(torch.randint(2, (), generator=generator))
            direction = direction + attack.gradient(index, inner, targets) - (each[index] - mean)
            inner = step(inner, direction)
        current = step(current, direction)
    expected = (current - x).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(attack.noise(images, labels, list("abcd")), expected, atol=1e-7)


def test_class_features_do_not_depend_on_the_split() -> None:
    images, labels = rows_of(7, 10)
    labels[:3] = [0, 1, 2]
    whole, parts = ClassFeatures.empty(CLASSES, FEATURES), ClassFeatures.empty(CLASSES, FEATURES)
    whole.update(net(), images, labels)
    for part in (slice(6, 10), slice(0, 6)):
        other = ClassFeatures.empty(CLASSES, FEATURES)
        other.update(net(), images[part], labels[part])
        parts.merge(other)
    assert torch.equal(whole.means(), parts.means())
    with pytest.raises(DataError, match=r"no images of classes \[0, 1, 2\]"):
        ClassFeatures.empty(CLASSES, FEATURES).means()


def test_views_are_padded_crops_and_flips() -> None:
    x = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    view = draw_view(RowDraws(0, "test", list("abcdef"), x.device), 5, 5, 2, flip=True)
    padded = F.pad(x, (2, 2, 2, 2))
    seen = set()
    for image, out in zip(padded, view(x), strict=True):
        candidates = {
            (i, j, flip): torch.equal(
                out, image[:, i : i + 5, j : j + 5].flip(2) if flip else image[:, i : i + 5, j : j + 5]
            )
            for i in range(5)
            for j in range(5)
            for flip in (False, True)
        }
        matches = [key for key, equal in candidates.items() if equal]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 3
    many = draw_view(RowDraws(0, "test", [str(row) for row in range(800)], x.device), 5, 5, 2, flip=True)
    kinds = {
        (tuple(rows.flatten().tolist()), tuple(c.flatten().tolist()))
        for rows, c in zip(many.rows, many.columns, strict=True)
    }
    assert len(kinds) == 5 * 5 * 2  # every shift, mirrored or not


@pytest.mark.parametrize(
    "task",
    [
        SurrogateTask(TAPConfig(surrogate=SMALL), CLASSES),
        EMTask(EMConfig(surrogate=SMALL, steps=2), CLASSES),
        EMTask(EMConfig(surrogate=SMALL, steps=2, wise="class"), CLASSES),
        REMTask(REMConfig(surrogate=SMALL, steps=1, draws=2, inner_steps=1), CLASSES),
    ],
    ids=["clean", "em", "em-class", "rem"],
)
def test_a_resumed_surrogate_is_the_undisturbed_one(task: SurrogateTask) -> None:
    images, labels = rows_of(8, 32)
    data = ImageSet(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
    states: list[TrainState] = []
    config = SMALL.train_config(len(data))
    straight = train(task, data, config, seed=1, on_epoch=lambda state, _: states.append(state))
    resumed = train(task, data, config, seed=1, resume=states[0])
    assert straight.epoch == 2
    assert all(torch.equal(value, resumed.model[name]) for name, value in straight.model.items())


def test_the_inner_attack_raises_the_loss_within_its_radius() -> None:
    images, labels = rows_of(2, 9)
    config = REMConfig(surrogate=SMALL)
    x, y = torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255, torch.from_numpy(labels)
    model = net().eval()
    attack = inner_attack(model, x, y, RowDraws(0, "test", list("abcdefghi"), x.device), config)
    assert attack.abs().max() <= config.radius * (1 + 1e-9)
    assert F.cross_entropy(model(x + attack), y) > F.cross_entropy(model(x), y)


def test_class_noise_sums_over_all_batches() -> None:
    images, _ = rows_of(5, 9)
    x, y = torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255, torch.arange(9) % CLASSES
    start = torch.zeros(CLASSES, *x.shape[1:], dtype=torch.float64)
    config = EMConfig(wise="class", steps=3, surrogate=SMALL)
    model = net().eval()
    whole = class_descent(model, [(x, y)], start, config)
    parts = class_descent(model, [(x[:4], y[:4]), (x[4:], y[4:])], start, config)
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogate_tells_what_its_last_layer_sees(name: str) -> None:
    model = build_surrogate(SurrogateConfig(model=name, width=2), CLASSES).eval()
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    features = model.features_of(x)  # type: ignore[operator]
    assert features.shape == (2, model.head.in_features)  # type: ignore[union-attr]
    torch.testing.assert_close(model.head(features), model(x))  # type: ignore[operator]
    assert model(x).shape == (2, CLASSES)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ConfigError, match="small"):
        build_surrogate(SurrogateConfig(model="vgg"), 3)
    with pytest.raises(ConfigError, match="at least 2"):
        build_surrogate(SMALL, 1)
    with pytest.raises(ConfigError, match="at least 2"):
        TAP(TAPConfig(), net(), 1)
    with pytest.raises(ConfigError, match="15 checkpoints, but 1"):
        SEP(SEPConfig(), [net()], CLASSES)
    with pytest.raises(ConfigError, match="needs class means"):
        SEP(SEPConfig(checkpoints=1), [net()], CLASSES)
    with pytest.raises(DataError, match=r"none of classes \[2\]"):
        craft_class_noise(EMConfig(wise="class"), net(), *_two_classes(), CLASSES)


def _two_classes() -> tuple[np.ndarray, np.ndarray]:
    return rows_of(0, 4)[0], np.array([0, 1, 0, 1])
