"""Workers with shares of a batch compute what one worker computes on all of it."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dtn_ray.method.augment import augment
from dtn_ray.method.losses import feature_distance
from dtn_ray.method.options import Augment
from dtn_ray.models import workers as module
from dtn_ray.models.digits import DigitF
from dtn_ray.models.faces import DeepFace
from dtn_ray.models.workers import Dropout, next_samples

counts = st.integers(1, 5)  # of workers; samples of each
amounts = st.sampled_from([0.0, 0.3, 1.0])
augmentations = st.builds(
    Augment,
    rotation=amounts.map(lambda amount: 20 * amount),
    scale=st.sampled_from([(1.0, 1.0), (0.7, 1.4)]),
    aspect=amounts,
    shear=amounts,
    shift=amounts,
    contrast=amounts,
    brightness=amounts,
    saturation=amounts,
    invert=amounts,
    mirror=amounts,
    noise=amounts,
)


def by_shares(function: Callable[[Tensor], Tensor], x: Tensor, workers: int, seed: int) -> Tensor:
    """What so many workers make of their shares of x, together. Each is told its place by hand."""
    parts = []
    for rank, share in enumerate(x.chunk(workers)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "place", lambda rank=rank: (rank, workers))
            torch.manual_seed(seed)
            parts.append(function(share))
    return torch.cat(parts)


@settings(max_examples=40)
@given(counts, counts, st.integers(0, 9), augmentations, augmentations)
def test_an_image_is_changed_alike_on_any_number_of_workers(workers, share, seed, first, second):
    x = torch.rand(workers * share, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def twice(images: Tensor) -> Tensor:  # as D sees G(s), then G(t)
        return augment(augment(images, first), second)

    torch.manual_seed(seed)
    whole = twice(x)
    torch.testing.assert_close(by_shares(twice, x, workers, seed), whole)


@given(counts, counts, st.integers(0, 9), st.sampled_from([0.0, 0.3, 0.9]), st.integers(1, 40))
def test_dropout_drops_the_same_of_a_sample_on_any_number_of_workers(workers, share, seed, p, features):
    x, dropout = torch.rand(workers * share, features) + 1, Dropout(p)
    torch.manual_seed(seed)
    whole = torch.nn.functional.dropout(x, p)
    assert torch.equal(by_shares(dropout, x, workers, seed), whole)
    assert torch.equal(by_shares(dropout.eval(), x, workers, seed), x)


def test_samples_of_different_workers_have_draws_of_their_own():
    x = torch.ones(8, 3, 4, 4)
    noisy = by_shares(lambda images: augment(images, Augment(noise=0.1, brightness=0.5)), x, 4, 0)
    assert len({image.numpy().tobytes() for image in noisy}) == 8
    dropped = by_shares(Dropout(0.5), torch.ones(8, 64), 4, 0)
    assert len({row.numpy().tobytes() for row in dropped}) == 8


@pytest.mark.parametrize("network", [DigitF(0.1, dropout=0.5), DeepFace(3, width=0.06, features=8)], ids=type)
def test_classifiers_give_the_same_logits_in_training_on_any_number_of_workers(network):
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    torch.manual_seed(5)
    whole = network(x)
    torch.testing.assert_close(by_shares(network, x, 2, 5), whole, rtol=1e-4, atol=1e-5)
    assert (by_shares(network, x, 2, 6) - whole).abs().max() > 1e-3, "dropout is at work"


def in_process(rank: int, workers: int, store: str, features: Tensor, queue) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=workers)
    share = len(features) // workers
    a, b = (part[rank * share : (rank + 1) * share].clone() for part in features.unbind(1))
    following = next_samples(b)
    b.requires_grad_()
    losses = {d: feature_distance(a, b, d) for d in ("mse", "hinge", "triplet")}
    gradients = {d: torch.autograd.grad(loss, b)[0].tolist() for d, loss in losses.items()}
    queue.put((rank, following.tolist(), {d: loss.item() for d, loss in losses.items()}, gradients))
    dist.destroy_process_group()


@pytest.mark.slow
def test_distances_to_the_next_sample_reach_over_workers_with_their_gradients(tmp_path):
    """Of a share alone, the last sample would be compared with the first of the same worker."""
    workers = 3
    features = torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(0))
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [
        context.Process(target=in_process, args=(rank, workers, str(tmp_path / "store"), features, queue))
        for rank in range(workers)
    ]
    for process in processes:
        process.start()
    found = sorted(queue.get() for _ in processes)
    for process in processes:
        process.join()

    a, b = features.unbind(1)
    b.requires_grad_()
    torch.testing.assert_close(torch.tensor([row for _, rows, _, _ in found for row in rows]), b.roll(-1, 0).detach())
    for d in ("mse", "hinge", "triplet"):
        loss = feature_distance(a, b, d)
        assert sum(losses[d] for _, _, losses, _ in found) / workers == pytest.approx(loss.item(), rel=1e-5)
        # Data-parallel training takes the mean of the workers' gradients.
        together = torch.tensor([row for *_, gradients in found for row in gradients[d]]) / workers
        torch.testing.assert_close(together, torch.autograd.grad(loss, b)[0], rtol=1e-4, atol=1e-6)
